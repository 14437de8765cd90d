"""What the dispatcher and the workers agree on; a leaf that imports msgspec and the standard library (``broker`` alone Celery)."""
