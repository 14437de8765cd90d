"""Thousands of asynchronous invocations, and the count of what became of each: by the ledger, and by the function itself.

The function notes each run in a file, with one write that no kill can tear. So a run that the ledger knows nothing of (its
outcome was lost with Redis, say) is seen too: events that ran more than once are counted, and none may not have run.
"""

import json
import os
import socket
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit

import psycopg

from tests.faults.calls import ROLE, wait_until_quiet
from tests.services.code import zip_of
from tests.services.local import python_runtime
from tests.services.stack import Stack
from tests.services.waiting import wait_until
from workers.contract import keys
from workers.contract.broker import queue

NAME: Final = "work"
CODE: Final = """\
import os, time
runs = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND)
def handler(event, context):
    os.write(runs, b"%d %s\\n" % (event["n"], context.aws_request_id.encode()))
    time.sleep(event.get("s", 0))
    return event["n"]
"""
#: Of each hundredth event: something always runs when a process is killed.
_SLOW_S: Final = 0.05
#: Of each five-hundredth, in bytes: over what travels in the message itself.
_LARGE: Final = 100_000
_THREADS: Final = 12
_ANSWER_S: Final = 30.0


class Ledger:
    """The database of a stack, read beside the dispatcher."""

    def __init__(self, url: str) -> None:
        """``url``: as ``EVERWARM_DATABASE_URL`` has it."""
        self._url = url

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a query finds."""
        if self._url.startswith("postgresql"):
            with psycopg.connect(self._url, connect_timeout=5) as connection:
                return connection.execute(sql.encode()).fetchall()
        path = self._url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as reader:
            return reader.execute(sql).fetchall()

    def in_flight(self) -> dict[str, int]:
        """State → events that have not ended."""
        found = self.rows("SELECT state, count(*) FROM events WHERE state IN ('queued', 'fed') GROUP BY state")
        return dict(found)

    def everything(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Events and attempts, to compare with later."""
        return self.rows("SELECT * FROM events ORDER BY id"), self.rows(
            "SELECT event_id, number, kind, started_at, ended_at, worker, environment FROM attempts ORDER BY 1, 2"
        )


@dataclass
class Sent:
    """What senders were answered."""

    accepted: dict[int, str] = field(default_factory=dict)
    """Number of an event → its request id, of those that were answered 202."""
    refused: int = 0
    """Answered 503."""
    unanswered: int = 0
    """The connection broke: only the ledger knows."""
    others: list[tuple[int, bytes]] = field(default_factory=list)


class Senders:
    """Threads that send events, one after the other on kept connections, until ``count`` are accepted or told to stop."""

    def __init__(self, endpoint: str, count: int, payload: Callable[[int], bytes]) -> None:
        self.sent = Sent()
        self._endpoint = endpoint
        self._count = count
        self._payload = payload
        self._number = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_THREADS)]
        for thread in self._threads:
            thread.start()

    @property
    def accepted(self) -> int:
        """Events that were answered 202 so far."""
        return len(self.sent.accepted)

    def wait_until_accepted(self, count: int, timeout_s: float = 30.0) -> None:
        """Until so many events were answered 202."""
        wait_until(f"{count} events are accepted", lambda: self.accepted >= count, timeout_s, every_s=0.005)

    def wait_until_refused_only(self, timeout_s: float = 30.0) -> None:
        """Until a hundred more are answered 503 with none accepted between."""
        wait_until("the first is refused", lambda: self.sent.refused, timeout_s, every_s=0.005)
        seen = [self.accepted, self.sent.refused]

        def only() -> bool:
            if self.accepted != seen[0]:
                seen[:] = [self.accepted, self.sent.refused]
            return self.sent.refused >= seen[1] + 100

        wait_until("all are refused", only, timeout_s)

    def wait(self, timeout_s: float = 60.0) -> Sent:
        """Until all are sent."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.01))
        hanging = sum(thread.is_alive() for thread in self._threads)
        assert not hanging, f"{hanging} senders hang; {self.accepted} accepted, {self.sent.refused} refused"
        assert not self.sent.others, self.sent.others[:5]
        return self.sent

    def stop(self) -> Sent:
        """Send no more."""
        self._stop.set()
        return self.wait()

    def _run(self) -> None:
        connection: _Connection | None = None
        while not self._stop.is_set() and self.accepted < self._count:
            try:
                if connection is None:
                    connection = _Connection(self._endpoint)
            except OSError:
                self._stop.wait(0.02)  # the dispatcher is starting
                continue
            with self._lock:
                self._number += 1
                number = self._number
            try:
                status, request_id, body = connection.send(self._payload(number))
            except OSError:
                connection.close()
                connection = None
                with self._lock:
                    self.sent.unanswered += 1
                continue
            self._note(number, status, request_id, body)
        if connection is not None:
            connection.close()

    def _note(self, number: int, status: int, request_id: str, body: bytes) -> None:
        with self._lock:
            if status == 202:
                self.sent.accepted[number] = request_id
            elif status == 503:
                self.sent.refused += 1
            else:
                self.sent.others.append((status, body))
        if status != 202:
            self._stop.wait(0.05)


class _Connection:
    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._host = parts.netloc.encode()
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=_ANSWER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, payload: bytes) -> tuple[int, str, bytes]:
        """Status, request id and body of the answer; raises ``OSError`` when there is none."""
        self._socket.sendall(
            b"POST /2015-03-31/functions/%b/invocations HTTP/1.1\r\nHost: %b\r\nX-Amz-Invocation-Type: Event\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (NAME.encode(), self._host, len(payload), payload)
        )
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        while len(body) < int(headers.get("content-length", "0")):
            body += self._receive()
        return int(lines[0].split()[1]), headers.get("x-amzn-requestid", ""), body

    def _receive(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()


def mixed(number: int) -> bytes:
    """Payloads of events: mostly small and quick, some slow, a few large."""
    event: dict[str, Any] = {"n": number}
    if number % 100 == 0:
        event["s"] = _SLOW_S
    if number % 500 == 0:
        event["filler"] = "x" * _LARGE
    return json.dumps(event).encode()


def quick(number: int) -> bytes:
    """Payload of an event that ends at once."""
    return b'{"n": %d}' % number


@dataclass(frozen=True)
class Count:
    """What became of the events of one trial. All were found to have succeeded."""

    accepted: int
    kept: int
    """Events in the ledger, those that got no answer included."""
    refused: int
    unanswered: int
    runs: int
    again: int
    """Runs beyond the first of each event."""
    attempts: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        more = ", ".join(f"{count} {kind}" for kind, count in sorted(self.attempts.items()) if kind != "success")
        return (
            f"{self.accepted} accepted ({self.refused} refused, {self.unanswered} without an answer), {self.kept} in the "
            f"ledger, all succeeded; {self.runs} runs, {self.again} more than once; attempts besides: {more or 'none'}; "
            f"{self.seconds:.1f} s"
        )


class Trial:
    """A function on a stack, events sent to it, and the count."""

    def __init__(self, stack: Stack, database_url: str) -> None:
        self.stack = stack
        self.ledger = Ledger(database_url or f"sqlite:///{stack.environ['EVERWARM_DATA']}/everwarm.db")
        # As root, functions see neither the machine's /tmp nor its /var/tmp, and run as other users.
        directory = "/run" if os.geteuid() == 0 else None
        descriptor, name = tempfile.mkstemp(prefix="everwarm-test-runs-", dir=directory)
        os.fchmod(descriptor, 0o666)
        os.close(descriptor)
        self._file = Path(name)
        self._began = time.monotonic()
        self._senders: list[Senders] = []
        self.client = client = stack.client()
        client.create_function(
            FunctionName=NAME,
            Runtime=python_runtime(),
            Handler="index.handler",
            Role=ROLE,
            Code={"ZipFile": zip_of(index__py=CODE)},
            Timeout=30,
            MemorySize=256,
            Environment={"Variables": {"RUNS": name}},
        )
        wait_until(
            "the function is active",
            lambda: client.get_function(FunctionName=NAME)["Configuration"]["State"] == "Active",
        )

    def close(self) -> None:
        """Remove the file, and end what else a test began or a failed one left."""
        if self.stack.runs("second worker"):
            self.stack.stop("second worker")
        for senders in self._senders:
            with suppress(AssertionError):
                senders.stop()
        self._file.unlink()

    def send(self, count: int, payload: Callable[[int], bytes] = mixed) -> Senders:
        """Begin to send; numbers of events are unique in one call of this, and one call is all that a trial has."""
        assert not self._senders
        self._senders.append(Senders(self.stack.endpoint, count, payload))
        return self._senders[-1]

    @property
    def runs(self) -> list[tuple[int, str]]:
        """Number and request id of every run so far."""
        lines = self._file.read_text().splitlines()
        return [(int(number), request_id) for number, _, request_id in (line.partition(" ") for line in lines)]

    def wait_until_run(self, count: int, timeout_s: float = 40.0) -> None:
        """Until the function has begun so many runs."""
        wait_until(f"{count} runs", lambda: self._file.read_bytes().count(b"\n") >= count, timeout_s, every_s=0.005)

    def wait_until_ended(self, timeout_s: float = 60.0) -> None:
        """Until nothing is in flight and nothing waits, neither in the ledger nor in Redis."""
        self.wait_until_ended_in_ledger(timeout_s)
        wait_until_quiet(self.stack)
        client = self.stack.redis.client
        wait_until("all messages are gone", lambda: not client.llen(queue(self.stack.mode, "event")))
        wait_until("all outcomes are read", lambda: not client.xlen(keys.OUTCOMES))
        assert not self.stack.redis.leaked_keys()

    def wait_until_ended_in_ledger(self, timeout_s: float = 60.0) -> None:
        """Until nothing is in flight and nothing waits."""
        last: list[Any] = []

        def ended() -> bool:
            last[:] = [self.ledger.in_flight()]
            return not last[0]

        try:
            wait_until("every event has ended", ended, timeout_s, every_s=0.1)
        except AssertionError:
            raise AssertionError(f"events that do not end: {last}; {self._stuck()}") from None

    def _stuck(self) -> list[tuple[Any, ...]]:
        return self.ledger.rows(
            "SELECT request_id, state, attempt, tries, backoffs, crashes, due_at, fed_at, message FROM events "
            "WHERE state IN ('queued', 'fed') LIMIT 5"
        )

    def count(self) -> Count:
        """Wait for the end, and check event by event that none is lost; the figures."""
        sent = self._senders[0].wait()
        self.wait_until_ended()
        events = self.ledger.rows("SELECT request_id, id, state, tries, error_message FROM events")
        states = {request_id: (state, tries, error) for request_id, _, state, tries, error in events}
        lost = [request_id for request_id in sent.accepted.values() if request_id not in states]
        assert not lost, f"{len(lost)} events were answered 202 and are not in the ledger"
        assert len(set(sent.accepted.values())) == len(sent.accepted)
        bad = {request_id: found for request_id, found in states.items() if found[:2] != ("succeeded", 1)}
        assert not bad, f"{len(bad)} events did not succeed with one try: {list(bad.items())[:5]}"

        attempts = self.ledger.rows("SELECT event_id, kind FROM attempts")
        succeeded = Counter(event for event, kind in attempts if kind == "success")
        assert succeeded == {number: 1 for _, number, *_ in events}, "one success counts for each event, and one only"

        runs = self.runs
        ran = Counter(request_id for _, request_id in runs)
        assert ran.keys() == states.keys(), f"{len(states.keys() - ran.keys())} events succeeded and did not run"
        of_number = dict(runs)
        assert all(of_number[number] == request_id for number, request_id in sent.accepted.items())
        return Count(
            accepted=len(sent.accepted),
            kept=len(states),
            refused=sent.refused,
            unanswered=sent.unanswered,
            runs=len(runs),
            again=len(runs) - len(ran),
            attempts=dict(Counter(kind for _, kind in attempts)),
            seconds=time.monotonic() - self._began,
        )


class Copies:
    """Takes part in consuming the queue of events, and puts each new message that it gets back three times."""

    def __init__(self, stack: Stack) -> None:
        self.messages: set[bytes] = set()
        self._client = stack.redis.client
        self._queue = queue(stack.mode, "event")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            found = cast("list[bytes] | None", self._client.brpop([self._queue], timeout=0.1))
            if not found:
                continue
            message = found[1]
            new = message not in self.messages
            self.messages.add(message)
            self._client.lpush(self._queue, *[message] * (3 if new else 1))
            if not new:
                self._stop.wait(0.002)  # the workers' turn


def spread(times: int, count: int) -> list[int]:
    """After how many of ``count`` events to do something that is done so many times."""
    return [count * number // (times + 1) for number in range(1, times + 1)]


def fill(path: Path) -> None:
    """Write a file until its disk has no room for another page."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
