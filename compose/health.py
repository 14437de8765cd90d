# ruff: noqa: INP001 - a script of the image, not a package
"""Health checks of the containers: ``health.py dispatcher`` and ``health.py worker``. Status 0 when all is well."""

import http.client
import os
import socket
import sys
from typing import Final

TIMEOUT_S: Final = 4.0


def dispatcher() -> str:
    """The dispatcher takes requests: it answers, and has its Redis."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("EVERWARM_PORT") or 4566), TIMEOUT_S)
    connection.request("GET", "/_everwarm/ready")
    answer = connection.getresponse()
    return "" if answer.status == http.client.OK else f"/_everwarm/ready answers {answer.status}"


def worker() -> str:
    """The worker takes invocations: the dispatcher sees its heartbeat, which is five seconds old at most."""
    import redis  # noqa: PLC0415 - only workers need it

    from workers.contract import keys  # noqa: PLC0415

    client = redis.Redis.from_url(os.environ["EVERWARM_REDIS_URL"], socket_timeout=TIMEOUT_S, decode_responses=True)
    with client:
        names = client.zrange(keys.WORKERS, 0, -1)
        hosts = [client.hget(keys.worker(str(name)), "host") for name in names]
    return "" if socket.gethostname() in hosts else f"none of {len(names)} workers with a heartbeat is on this host"


def main(part: str) -> int:
    """Check one part; what is wrong is one line on standard output, which the engine keeps."""
    try:
        problem = dispatcher() if part == "dispatcher" else worker()
    except Exception as error:  # noqa: BLE001 - whatever it is, the part is not well
        problem = f"{type(error).__name__}: {error}"
    print(problem or "ok")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
