"""The worker's mailbox: a Redis list that others push messages into, read by a thread of its own.

A message is bytes: its kind, a space, and what its handler gets. ``move`` is a batch that comes with a lease on one of
this worker's idle environments (``acquire.lua`` writes it, :func:`parse_move` reads it), ``prepare`` a function to be
made ready, ``cancel`` an attempt to be ended (:func:`parse_cancel`).

A message may be lost: with the connection that it was being read from, or with Redis. Nobody waits for it in vain,
because its sender keeps the work until somebody has claimed it. When a ``move`` is lost, its lease ends and its worker
reclaims the environment, and whoever published the batch sends it again. A message of a kind that is unknown, or that
can't be read, comes from a newer Everwarm; it is dropped, and the same holds.

Sharp edge: a message that comes after :meth:`Mailbox.stop` lies there; :func:`pop_unread_messages` reads it, for a
worker that stops, or for one that was killed.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from workers.contract import keys
from workers.redis_client import Store, Unavailable
from workers.service_thread import ServiceThread

#: How long one read waits for a message. Below the Redis client's timeout, which would take it for a Redis that hangs.
WAIT_S: Final = 1
_LOST_PAUSE_S: Final = 0.2

log = logging.getLogger(__name__)


class Unreadable(ValueError):
    """A message that is none of ours, or of another version."""


@dataclass(frozen=True, slots=True)
class Move:
    """A moved batch, and the lease that it comes with."""

    environment: str
    generation: int
    owner: str
    batch: bytes


def parse_move(body: bytes) -> Move:
    """Read what follows the word ``move``. Raises :class:`Unreadable`."""
    head, _, batch = body.partition(b"\n")
    try:
        environment, generation, owner = head.decode().split(" ", 2)
        return Move(environment, int(generation), owner, batch)
    except ValueError as error:
        raise Unreadable("a move without environment, generation and owner") from error


def parse_cancel(body: bytes) -> tuple[str, int]:
    """Read what follows the word ``cancel``: request id and attempt. Raises :class:`Unreadable`."""
    try:
        request_id, attempt = body.decode().split(" ")
        return request_id, int(attempt)
    except ValueError as error:
        raise Unreadable("a cancel without request id and attempt") from error


def split_message(message: bytes) -> tuple[str, bytes]:
    """A message's kind, and its body."""
    kind, _, body = message.partition(b" ")
    return kind.decode(errors="replace"), body


def pop_unread_messages(store: Store, worker: str) -> list[tuple[str, bytes]]:
    """Kind and body of the messages that ``worker`` reads no more; each goes to one caller, however many ask."""
    found: list[tuple[str, bytes]] = []
    while (message := store.client.lpop(keys.mailbox(worker))) is not None:
        found.append(split_message(cast("bytes", message)))
    return found


class Mailbox:
    """Reads one worker's messages. Handlers run in its thread, one after the other: they hand the work on."""

    def __init__(
        self,
        store: Store,
        worker: str,
        handlers: Mapping[str, Callable[[bytes], None]],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """``handlers`` are called with a message's body, by its kind; they may raise :class:`Unreadable`."""
        self._store = store
        self._key = keys.mailbox(worker)
        self._handlers = dict(handlers)
        self._lost = False
        self._thread = ServiceThread(
            "mailbox", lambda: self.run_once(WAIT_S), lambda: _LOST_PAUSE_S if self._lost else 0.0, on_failure
        )

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more messages; the thread ends once its read has."""
        self._thread.stop(2 * WAIT_S)

    def run_once(self, timeout_s: float) -> bool:
        """Handle one message if there is one within ``timeout_s``; whether there was."""
        try:
            # The store has one connection per thread, so this waits on one of its own.
            found = self._store.client.blpop([self._key], timeout_s)
        except Unavailable as error:
            if not self._lost:
                log.warning("the mailbox can't be read; waiting for Redis", extra={"error": str(error)})
            self._lost = True
            return False
        self._lost = False
        if found is None:
            return False
        kind, body = split_message(cast("tuple[bytes, bytes]", found)[1])
        self._handle(kind, body)
        return True

    def _handle(self, kind: str, body: bytes) -> None:
        handler = self._handlers.get(kind)
        if handler is None:
            log.error("a message of an unknown kind is dropped", extra={"kind": kind[:40]})
            return
        try:
            handler(body)
        except Unreadable as error:
            log.error("a message that can't be read is dropped: %s", error, extra={"kind": kind})
