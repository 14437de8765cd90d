"""Ends its process with ``sys.exit``; the event's ``status`` is optional."""

import sys


def handler(event, context):
    sys.exit(event.get("status"))
