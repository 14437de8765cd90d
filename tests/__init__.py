"""The test suite: see ``tests/services`` for the real services that the fixtures start."""
