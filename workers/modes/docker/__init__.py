"""Modes ``docker`` and ``docker-reuse``: functions run in containers."""
