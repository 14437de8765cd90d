"""What the dispatcher and the workers agree on.

A leaf: it imports msgspec and the standard library, ``broker`` and ``transport`` also Celery and kombu.
"""
