"""Leaves children behind that have left its process group and session; answers with their process ids."""

import os
import signal
import time


def handler(event, context):
    pids = []
    for _ in range(event.get("children", 2)):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.setsid()
            grandchild = os.fork()
            if grandchild:
                os.write(writing, b"%d" % grandchild)
                os._exit(0)
            for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(name, signal.SIG_IGN)
            if not event.get("hold_output"):
                null = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(null, stream)
            while True:
                time.sleep(3600)
        os.waitpid(child, 0)
        pids.append(int(os.read(reading, 20)))
        os.close(reading)
        os.close(writing)
    return pids
