"""Hangs while it is imported."""

import time

print("hanging at import")
time.sleep(3600)
