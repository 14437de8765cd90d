"""Ends its process while it is imported, with status 7."""

import os

print("leaving at import")
os._exit(7)
