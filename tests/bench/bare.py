"""The yardstick: a no-op task on plain Celery, whose worker pushes its argument to the caller's own list; and one that
does nothing at all, for a backlog of it.

Celery as it comes (its JSON serialiser, its own publishing), set only as Everwarm's worker is: threads, late
acknowledgement, one message a thread, no result backend. ``python -m tests.bench.bare URL THREADS`` is its worker.
"""

import json
import secrets
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from celery import Celery

from dispatcher.cli.process import spawn
from tests.bench.load import Call
from tests.services.commands import clean_environ
from tests.services.redis import RedisServer
from tests.services.waiting import wait_until

_ANSWER_S = 10
#: Celery's names: of its default queue, and of the hash of messages that were taken and not acknowledged.
_QUEUE: Final = "celery"
_UNACKED: Final = "unacked"
_NOTHING: Final = "bare.nothing"
_DRAIN_S: Final = 120
_LOOK_S: Final = 0.05
_CHUNK: Final = 1000


def create(redis_url: str) -> tuple[Celery, Any]:
    """The application and its task, for its worker and its clients."""
    app = Celery("bare", broker=_broker_url(redis_url), set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    answers = redis.Redis.from_url(redis_url)

    @app.task(name="bare.echo", shared=False)  # type: ignore[untyped-decorator]
    def echo(own: str, text: str) -> None:
        answers.rpush(own, text)

    @app.task(name=_NOTHING, shared=False)  # type: ignore[untyped-decorator]
    def nothing() -> None:
        pass

    return app, echo


def _broker_url(redis_url: str) -> str:
    parts = urlsplit(redis_url)
    if parts.scheme == "redis":
        return redis_url
    return f"redis+socket://:{parts.password}@{parts.path}?virtual_host=0"


_shared = cache(create)


def connect(redis_url: str) -> Call:
    """A call publishes one message and waits for its answer on this client's own list."""
    _app, task = _shared(redis_url)
    client = redis.Redis.from_url(redis_url, single_connection_client=True)
    own = f"bare.replies.{secrets.token_hex(8)}"
    text = '{"message":"hello"}'

    def call() -> None:
        task.apply_async(args=(own, text))
        found = client.blpop([own], timeout=_ANSWER_S)
        assert found is not None, f"no answer within {_ANSWER_S} s"
        assert found[1] == text.encode()

    return call


@contextmanager
def worker(directory: Path, threads: int) -> Iterator[str]:
    """A Redis of its own and a Celery worker; the URL for :func:`connect`."""
    server = RedisServer(directory / "redis")
    server.start()
    try:
        process = _start(server.url, directory / "worker.log", threads)
        try:
            call = connect(server.url)
            wait_until("the bare Celery worker answers", lambda: process.poll() is None and (call() or True), 30)
            yield server.url
        finally:
            process.terminate()
            process.wait(20)
    finally:
        server.close()


def drain(directory: Path, threads: int, count: int) -> float:
    """Messages a second of a worker that finds ``count`` of them, from the first that it has done to the last."""
    server = RedisServer(directory / "redis")
    server.start()
    try:
        _publish(server, count)
        process = _start(server.url, directory / "worker.log", threads)
        try:

            def left() -> int:
                assert process.poll() is None, f"the bare Celery worker ended with status {process.returncode}"
                pipe = server.client.pipeline(transaction=True)
                pipe.llen(_QUEUE)
                pipe.hlen(_UNACKED)
                return sum(pipe.execute())

            return drained(left, count)
        finally:
            process.terminate()
            process.wait(20)
    finally:
        server.close()


def drained(left: Callable[[], int], count: int) -> float:
    """Watch ``left`` fall from ``count`` to 0: how many a second, from the first look at which one was done."""
    first = wait_until("the first of a backlog is done", lambda: count - left(), 60, every_s=_LOOK_S)
    began = time.perf_counter()
    wait_until("a backlog is done", lambda: left() == 0, _DRAIN_S, every_s=_LOOK_S)
    return (count - first) / (time.perf_counter() - began)


def _publish(server: RedisServer, count: int) -> None:
    """One message as Celery publishes it, and copies with ids of their own: publishing them all would take its time."""
    app, _task = create(server.url)
    app.tasks[_NOTHING].apply_async()
    app.close()
    found: list[bytes] = server.client.lrange(_QUEUE, 0, -1)  # type: ignore[assignment]
    (message,) = found
    parsed = json.loads(message)
    own = (parsed["headers"]["id"], parsed["properties"]["delivery_tag"])
    for start in range(1, count, _CHUNK):
        copies = []
        for _ in range(min(_CHUNK, count - start)):
            copy = message
            for name in own:
                copy = copy.replace(name.encode(), str(uuid.uuid4()).encode())
            copies.append(copy)
        server.client.lpush(_QUEUE, *copies)
    assert server.client.llen(_QUEUE) == count


def _start(url: str, log: Path, threads: int) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        argv = [sys.executable, "-P", "-m", "tests.bench.bare", url, str(threads)]
        return spawn(argv, clean_environ({"PYTHONPATH": str(Path.cwd())}), output=output)


def main(redis_url: str, threads: int) -> int:
    """Work until a signal."""
    warnings.filterwarnings("ignore", message="(?s).*superuser privileges")
    app, _task = create(redis_url)
    found = app.Worker(
        pool="threads",
        concurrency=threads,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    found.start()
    return int(found.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
