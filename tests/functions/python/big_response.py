"""Answers with a string whose JSON has the event's ``bytes``."""


def handler(event, context):
    return "x" * (event["bytes"] - 2)
