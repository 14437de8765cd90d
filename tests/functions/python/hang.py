"""Never returns: sleeps, or turns in a circle with ``busy`` in the event. Ignores what can be ignored."""

import signal
import time


def handler(event, context):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("hanging")
    while True:
        if not event.get("busy"):
            time.sleep(3600)
