"""Sleeps the event's ``seconds``, then answers with them."""

import time


def handler(event, context):
    print("sleeping", event["seconds"])
    time.sleep(event["seconds"])
    return event["seconds"]
