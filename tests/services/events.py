"""Asynchronous invocations for tests: sent, looked up in the ledger's file, and a gate that functions wait at."""

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.services.functions import Functions
from tests.services.stack import Stack
from tests.services.waiting import wait_until

#: The handlers of the tests: ``event["gate"]`` is the URL of a :class:`Gate`, and they wait there until it is open.
THROUGH_GATE: Final = """
import urllib.parse, urllib.request
def through_gate(event, context):
    word = urllib.parse.urlencode({"name": event.get("name", ""), "id": context.aws_request_id})
    urllib.request.urlopen(event["gate"] + "?" + word, timeout=120).read()
"""


@dataclass(frozen=True)
class Event:
    """An event as the ledger has it."""

    request_id: str
    state: str
    condition: str
    tries: int
    attempt: int
    error_type: str
    error_message: str
    origin: str
    parent: str
    attempts: list[sqlite3.Row]
    """Of those that have ended; columns as in the table."""
    deliveries: list[sqlite3.Row]

    @property
    def kinds(self) -> list[str]:
        """How its attempts ended."""
        return [str(attempt["kind"]) for attempt in self.attempts]


def events_of(stack: Stack, where: str, *values: object) -> list[Event]:
    """The events of a stack's SQLite ledger that a condition holds for."""
    with closing(sqlite3.connect(f"file:{stack.data / 'everwarm.db'}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row

        def rows(table: str, number: int, order: str) -> list[sqlite3.Row]:
            query = f"SELECT * FROM {table} WHERE event_id = ? ORDER BY {order}"
            return connection.execute(query, (number,)).fetchall()

        found = connection.execute(f"SELECT * FROM events WHERE {where} ORDER BY id", values).fetchall()
        return [
            Event(
                **{name: row[name] for name in Event.__annotations__ if name in row.keys()},  # noqa: SIM118 - a Row
                attempts=rows("attempts", row["id"], "number"),
                deliveries=rows("deliveries", row["id"], "kind"),
            )
            for row in found
        ]


def event_of(stack: Stack, request_id: str) -> Event:
    """The event, which must be there."""
    (found,) = events_of(stack, "request_id = ?", request_id)
    return found


def send(functions: Functions, name: str, event: Any = None, **members: Any) -> str:
    """Invoke asynchronously; answers the request id."""
    answer = functions.invoke(name, event, InvocationType="Event", LogType=None, **members)
    assert (answer.status, answer.body, answer.error, answer.version) == (202, b"", None, None)
    return answer.request_id


def wait_until_ended(stack: Stack, request_id: str, timeout_s: float = 30.0) -> Event:
    """The event, once it is not queued and not in flight any more."""

    def ended() -> Event | None:
        found = event_of(stack, request_id)
        return found if found.state not in {"queued", "fed"} else None

    try:
        found = wait_until(f"the event {request_id} has ended", ended, timeout_s, every_s=0.05)
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {event_of(stack, request_id)}") from None
    assert found is not None
    return found


def result_of(event: Event) -> Any:
    """What the last attempt returned."""
    return json.loads(event.attempts[-1]["result"])


class Gate:
    """An HTTP server at which functions wait until it opens. It knows who came, when, and how many at a time."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._lock = threading.Lock()
        self.passed: list[tuple[float, str, str]] = []
        """Monotonic time of arrival, name and request id of each."""
        self.inside: Counter[str] = Counter()
        """Name → those that wait now."""
        self.most: Counter[str] = Counter()
        """Name → the most that were there at a time."""
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                gate._come((query.get("name") or [""])[0], query["id"][0])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _come(self, name: str, request_id: str) -> None:
        with self._lock:
            self.passed.append((time.monotonic(), name, request_id))
            self.inside[name] += 1
            self.most[name] = max(self.most[name], self.inside[name])
        self._open.wait()
        with self._lock:
            self.inside[name] -= 1

    def ids(self, name: str = "") -> list[str]:
        """Request ids of those that came with that name."""
        with self._lock:
            return [found for _, one, found in self.passed if one == name]

    def open(self) -> None:
        """Let everybody through, from now on."""
        self._open.set()

    def shut(self) -> None:
        """Let nobody through any more."""
        self._open.clear()

    def close(self) -> None:
        """End it."""
        self.open()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is shut."""
    found = Gate()
    yield found
    found.close()
