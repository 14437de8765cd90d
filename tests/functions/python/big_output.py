"""Writes the event's ``bytes`` (100 MB) to standard output in lines of 1,000 bytes, then answers with their number."""

import sys


def handler(event, context):
    size = event.get("bytes", 100_000_000)
    block = ("x" * 999 + "\n") * 1000
    for _ in range(size // len(block)):
        sys.stdout.write(block)
    sys.stdout.write(block[: size % len(block)])
    return size
