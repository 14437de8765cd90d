"""Raises ValueError with the event's ``message``."""


def inner(message):
    raise ValueError(message)


def handler(event, context):
    inner(event.get("message", "on purpose"))
