"""Asynchronous calls: how fast events are accepted, how fast a backlog of them is run, and what one that waits costs.

Events are accepted on SQLite, with an fsync before each 202; beside it stands what the disk does without anything around it.
The drain is beside bare Celery's, of as many messages that do nothing. Memory is of one stack with a large backlog, whose
rate of accepting is measured in turns with that of a stack whose ledger is nearly empty.
"""

import json
import os
import select
import socket
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final, NamedTuple, Self

from rich.table import Table

from dispatcher.sql.tables import events as _events
from tests.bench import bare, cold, warm
from tests.bench.table import Line, latency, number_text, table
from tests.services.stack import Stack
from tests.services.waiting import wait_until

#: Targets of the project: 202s a second, their p99 in ms, a drain against bare Celery's, and MB that a backlog may cost.
_ACCEPTED, _P99, _DRAIN, _GROWTH = 1500.0, 20.0, 2.0, 50.0
#: A large ledger must not slow accepting; what is missing to 1 is left to noise.
_LARGE: Final = 0.8

_FUNCTION: Final = "bench-events"
_CLIENTS: Final = 8
#: More of them fill a ledger sooner.
_FILLING: Final = 32
_EVENT_BYTES: Final = 1024
_FRAME_BYTES: Final = 4096
_ANSWER_S: Final = 30
_SETTLE_S: Final = 1.0
#: Rows of one insert: the dispatcher's own writes wait for it.
_CHUNK: Final = 20_000
_NEVER: Final = 1 << 60


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    seconds: float
    """Of each round."""
    drained: int
    waiting: int
    """Events of the backlog."""
    filling_s: float
    """So long of it comes through HTTP, and the rest in SQL."""
    ended: int
    """Events that have ended, in the ledger beside that."""
    ending_s: float
    """No longer than that are they inserted."""


FULL = Size(rounds=3, seconds=2.0, drained=20_000, waiting=200_000, filling_s=15, ended=1_000_000, ending_s=20)
QUICK = Size(rounds=2, seconds=1.0, drained=4_000, waiting=20_000, filling_s=5, ended=100_000, ending_s=5)


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure with a target of its own, whatever stands beside it."""

    title: str
    everwarm: float
    unit: str
    bare: float | None = None
    target: float | None = None
    at_least: bool = False

    def cells(self) -> tuple[str, str, str, str, str]:
        """Those of a row of the table."""
        beside, ratio, verdict = "", "", ""
        if self.bare is not None:
            beside, ratio = number_text(self.bare, self.unit), f"{self.everwarm / self.bare:.2f}"
        if self.target is not None:
            # The verdict of a ratio to 1 is that of the figure itself.
            verdict = Line("", 1, self.everwarm, "", self.target, at_least=self.at_least).verdict
            verdict = verdict.replace(f"{self.target:g}", f"{self.target:,.0f}{self.unit}", 1)
        return self.title, beside, number_text(self.everwarm, self.unit), ratio, verdict


_Row = Line | _Figure


def measure(size: Size, directory: Path, threads: int, program: cold.Program, status: Callable[[str], None]) -> Table:
    """Everything of this section."""
    with _Client() as client:
        rows = [*_accepting_and_drain(size, directory, threads, program, client, status)]
        rows += _large(size, threads, program, client, status)
    found = table([], _caption(size))
    for row in rows:
        cells = row.cells() if isinstance(row, _Figure) else _cells(row)
        found.add_row(*cells)
    return found


def _cells(line: Line) -> tuple[str, str, str, str, str]:
    bare_figure, everwarm = number_text(line.bare, line.unit), number_text(line.everwarm, line.unit)
    return line.title, bare_figure, everwarm, f"{line.ratio:.2f}", line.verdict


# --- what is measured ---


def _accepting_and_drain(
    size: Size,
    directory: Path,
    threads: int,
    program: cold.Program,
    client: "_Client",
    status: Callable[[str], None],
) -> Iterator[_Row]:
    with _stack(threads, program) as stack, closing(_Ledger(stack)) as ledger:
        status("202s while workers run")
        client.accept(stack, clients=_CLIENTS, most=100)
        busy = [client.accept(stack, seconds=size.seconds)]
        wait_until("the first events have ended", lambda: ledger.left() == 0, 120)
        _stop_worker(stack)
        status("202s")
        synced, accepted = [], []
        for _ in range(size.rounds):
            synced.append(_syncs(stack.data, size.seconds / 2))
            accepted.append(client.accept(stack, seconds=size.seconds))
        # What was accepted is the backlog that is drained.
        missing = size.drained - ledger.left()
        if missing > 0:
            client.accept(stack, clients=_FILLING, most=missing)
        count = ledger.left()
        status("drains")
        # One half of bare Celery's before Everwarm's and one after it, so that a machine that changes its speed changes both.
        halves = [bare.drain(directory / "drain-before", threads, size.drained // 2)]
        stack.start_part("worker")
        ours = bare.drained(ledger.left, count)
        ledger.check_succeeded()
        halves.append(bare.drain(directory / "drain-after", threads, size.drained // 2))
    took = latency([one.took_ms for one in accepted])
    took_busy = latency([one.took_ms for one in busy])
    rate = statistics.median(one.rate for one in accepted)
    yield _Figure(f"202s, {_CLIENTS} clients", rate, "/s", statistics.median(synced), _ACCEPTED, at_least=True)
    yield _Figure("  p50", took.p50, " ms")
    yield _Figure("  p99", took.p99, " ms", None, _P99)
    yield _Figure("  while a worker runs them", busy[0].rate, "/s")
    yield _Figure("    p50", took_busy.p50, " ms")
    yield _Figure("    p99", took_busy.p99, " ms")
    yield Line(f"drain of {count:,}", 2 / sum(1 / half for half in halves), ours, "/s", _DRAIN, at_least=True)


def _large(
    size: Size, threads: int, program: cold.Program, client: "_Client", status: Callable[[str], None]
) -> Iterator[_Row]:
    with (
        _stack(threads, program) as empty,
        _stack(threads, program) as stack,
        closing(_Ledger(stack)) as ledger,
    ):
        for one in (empty, stack):
            _stop_worker(one)
            client.accept(one, clients=_FILLING, most=500)  # threads, connections, statements: whatever is made once
        time.sleep(_SETTLE_S)
        dispatcher, redis = _memory(stack)
        status(f"a backlog of {size.waiting:,}")
        client.accept(stack, clients=_FILLING, most=size.waiting - ledger.left(), seconds=size.filling_s)
        through_http = ledger.left()
        ledger.insert("queued", size.waiting - through_http, _NEVER)
        assert ledger.left() == size.waiting
        time.sleep(_SETTLE_S)
        dispatcher_after, redis_after = _memory(stack)
        before, waiting = _in_turns(size, client, empty, stack)
        status(f"a ledger of {size.ended:,}")
        ended = ledger.insert("succeeded", size.ended, size.ending_s)
        before_both, both = _in_turns(size, client, empty, stack)
    yield _Figure(f"{size.waiting:,} waiting: RSS grows by", dispatcher_after - dispatcher, " MB", None, _GROWTH)
    yield _Figure("  used_memory of Redis grows by", redis_after - redis, " MB", None, _GROWTH)
    yield _Figure("  of them accepted through HTTP", through_http, "")
    yield Line("  202s, beside an empty ledger", before, waiting, "/s", _LARGE, at_least=True)
    yield Line(f"  and with {ended:,} ended", before_both, both, "/s", _LARGE, at_least=True)


def _in_turns(size: Size, client: "_Client", *stacks: Stack) -> list[float]:
    """Each one's 202s a second."""
    for stack in stacks:
        client.accept(
            stack, seconds=size.seconds / 4
        )  # what SQLite kept in memory of the file is stale after an insert
    rates: dict[Stack, list[float]] = {stack: [] for stack in stacks}
    # There and back, so that none has the later turns.
    for stack in (*stacks, *reversed(stacks)):
        rates[stack].append(client.accept(stack, seconds=size.seconds).rate)
    return [statistics.mean(found) for found in rates.values()]


@contextmanager
def _stack(threads: int, program: cold.Program) -> Iterator[Stack]:
    """Everything runs, and its function has answered."""
    stack = Stack({"EVERWARM_CONCURRENCY": str(threads)})
    try:
        stack.start()
        cold.create(stack.client(), _FUNCTION, program)
        connection = warm.Connection(stack.endpoint)
        connection.invoke(_FUNCTION)
        connection.close()
        yield stack
    finally:
        stack.close()


def _stop_worker(stack: Stack) -> None:
    stack.stop("worker")
    # Until the dispatcher knows it: then nothing is fed any more.
    wait_until("the dispatcher has no worker", lambda: stack.get("/_everwarm/health")[0] == 503)


def _syncs(directory: Path, seconds: float) -> float:
    """How often a second a page is appended to a file and on disk: what SQLite's log does for a commit."""
    path = directory / "syncs"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        count, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            os.write(file, bytes(_FRAME_BYTES))
            os.fdatasync(file)
            count += 1
    finally:
        os.close(file)
        path.unlink()
    return count / took


def _memory(stack: Stack) -> tuple[float, float]:
    """MB of the dispatcher (RSS) and of Redis (``used_memory``)."""
    status = Path(f"/proc/{stack.pid('dispatcher')}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) * 1024
    return resident / 1e6, int(stack.redis.client.info("memory")["used_memory"]) / 1e6


# --- the ledger, from beside it ---


class _Ledger:
    """A stack's ledger, by connections of the bench's own."""

    def __init__(self, stack: Stack) -> None:
        self._path = stack.data / "everwarm.db"
        self._reader = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=10)

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()

    def left(self) -> int:
        """Events that have not ended. These have indexes of their own, so looking often takes nothing from the dispatcher."""
        return self._count("SELECT (SELECT count(*) FROM events WHERE state = 'queued')"
                           " + (SELECT count(*) FROM events WHERE state = 'fed')")  # fmt: skip

    def check_succeeded(self) -> None:
        """Whatever ended otherwise makes the figures worthless."""
        failed = self._count("SELECT count(*) FROM events WHERE state <> 'succeeded'")
        assert not failed, f"{failed} events did not succeed"

    def _count(self, query: str) -> int:
        found: int = self._reader.execute(query).fetchone()[0]
        return found

    def insert(self, state: str, count: int, seconds: float) -> int:
        """Copies of the newest event, as if they had been accepted after it, as many of ``count`` as can be had in time.

        Those that have ended come without their payloads, which would take a gigabyte, and which nothing reads here.
        """
        special = {"id": ":id + n * 1024", "request_id": "lower(hex(randomblob(16)))", "state": ":state"}
        names = [column.name for column in _events.columns]
        numbers = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :many)"
        chosen = ", ".join(special.get(name, name) for name in names)
        into = f"INSERT INTO events ({', '.join(names)}) {numbers} SELECT {chosen} FROM numbers, events WHERE id = :id"
        payloads = (
            f"INSERT INTO payloads (event_id, payload) {numbers}"
            " SELECT :id + n * 1024, payload FROM numbers, payloads WHERE event_id = :template"
        )
        with closing(sqlite3.connect(self._path, timeout=10, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            until, done = time.monotonic() + seconds, 0
            template = self._count("SELECT max(id) FROM events")
            while done < count and time.monotonic() < until:
                many = min(_CHUNK, count - done)
                newest = self._count("SELECT max(id) FROM events")
                values = {"id": newest, "many": many, "state": state, "template": template}
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(into, values)
                if state == "queued":
                    connection.execute(payloads, values)
                connection.execute("COMMIT")
                done += many
            # Or the dispatcher's next commits, and the disk beside them, would be busy with what was written here.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file = os.open(self._path, os.O_RDWR)
        os.fsync(file)
        os.close(file)
        return done


# --- the clients ---


class _Accepted(NamedTuple):
    """What clients have seen together."""

    rate: float
    took_ms: list[float]


class _Client:
    """A process with many connections and one thread, so that it takes little from what it measures."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def accept(
        self, stack: Stack, *, clients: int = _CLIENTS, seconds: float = _NEVER, most: int = _NEVER
    ) -> _Accepted:
        """Send events, each client its next one when it has a 202 for the one before; ends by time or by count."""
        bounded = min(clients, most)
        return (
            self._pool.submit(_accept, stack.port, bounded, seconds, most).result(300) if bounded else _Accepted(0, [])
        )


def _accept(port: int, clients: int, seconds: float, most: int) -> _Accepted:
    request = _request(port)
    # An event loop would take as much again as all of this does.
    poll = select.epoll()
    connections = {}
    for _ in range(clients):
        connection = socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(connection, select.EPOLLIN)
        connections[connection.fileno()] = connection
    received = dict.fromkeys(connections, b"")
    took_ms: list[float] = []
    now = began = time.perf_counter()
    sent, waiting = len(connections), len(connections)
    since = dict.fromkeys(connections, began)
    try:
        for connection in connections.values():
            connection.sendall(request)
        while waiting:
            ready = poll.poll(_ANSWER_S)
            assert ready, f"no answer within {_ANSWER_S} s"
            for number, _ in ready:
                data = received[number] + _receive(connections[number])
                if not _is_accepted(data):
                    received[number] = data
                    continue
                received[number] = b""
                now = time.perf_counter()
                took_ms.append((now - since[number]) * 1000)
                if sent < most and now - began < seconds:
                    since[number] = now
                    connections[number].sendall(request)
                    sent += 1
                else:
                    waiting -= 1
    finally:
        for connection in connections.values():
            connection.close()
        poll.close()
    return _Accepted(len(took_ms) / (now - began), took_ms)


def _request(port: int) -> bytes:
    body = json.dumps({"message": ""}).encode()
    body = body.replace(b'""', b'"%b"' % (b"x" * (_EVENT_BYTES - len(body))))
    head = (
        f"POST /2015-03-31/functions/{_FUNCTION}/invocations HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"X-Amz-Invocation-Type: Event\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "the server closed the connection"
    return data


def _is_accepted(data: bytes) -> bool:
    """Whether the answer is there as a whole; anything but an empty 202 is an error."""
    head, ended, body = data.partition(b"\r\n\r\n")
    if not ended:
        return False
    assert head.startswith(b"HTTP/1.1 202 "), data
    assert b"\r\ncontent-length: 0" in head.lower(), data
    assert not body, data
    return True


def _caption(size: Size) -> str:
    return (
        f"Asynchronous calls, events of {_EVENT_BYTES:,} bytes, SQLite on the disk of the temporary directory. 202s: medians of"
        f" {size.rounds} rounds of {size.seconds:g} s without workers, in turns with appending {_FRAME_BYTES:,} bytes and"
        " fdatasync. Drain: of an echo, beside as many messages of plain Celery that do nothing, both waiting before their"
        " workers start, from the first end to the last. Waiting:"
        " growth of the dispatcher and Redis while so many events wait without workers; an empty ledger is another stack's, in"
        " turns."
    )
