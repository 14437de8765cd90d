"""Ends its process at once with the event's ``status``."""

import os


def handler(event, context):
    os._exit(event["status"])
