"""The worker's mailbox: a Redis list that others push letters into, read by a thread of its own.

A letter is bytes: its kind, a space, and what its handler gets. ``move`` is a batch that comes with a lease on one of this
worker's idle environments (``acquire.lua`` writes it, :func:`parse_move` reads it), ``prepare`` a function to be made ready,
``cancel`` an attempt to be ended (:func:`parse_cancel`).

A letter may be lost, with the connection that it was read from, or with Redis. Nothing hangs on it: the lease it came with
ends and is reclaimed, and whoever published the batch acts, since it was not claimed. A letter of a kind that is unknown,
or that can't be read, is from a newer Everwarm: it is dropped, likewise.

Sharp edge: a letter that comes after :meth:`Mailbox.stop` lies there; :func:`take_rest` reads it, for a worker that
stops, or for one that was killed.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from workers.contract import keys
from workers.redis_client import Store, Unavailable

#: How long one read waits for a letter. Below the store's timeout, which would take it for a Redis that hangs.
WAIT_S: Final = 1
_PAUSE_S: Final = 0.2

log = logging.getLogger(__name__)


class Unreadable(ValueError):
    """A letter that is none of ours, or of another version."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A moved batch, and the lease that it comes with."""

    environment: str
    generation: int
    owner: str
    batch: bytes


def parse_move(body: bytes) -> Letter:
    """What follows the word ``move``. Raises :class:`Unreadable`."""
    head, _, batch = body.partition(b"\n")
    try:
        environment, generation, owner = head.decode().split(" ", 2)
        return Letter(environment, int(generation), owner, batch)
    except ValueError as error:
        raise Unreadable("a move without environment, generation and owner") from error


def parse_cancel(body: bytes) -> tuple[str, int]:
    """What follows the word ``cancel``: request id and attempt. Raises :class:`Unreadable`."""
    try:
        request_id, attempt = body.decode().split(" ")
        return request_id, int(attempt)
    except ValueError as error:
        raise Unreadable("a cancel without request id and attempt") from error


def split(element: bytes) -> tuple[str, bytes]:
    """A letter's kind, and the rest."""
    kind, _, body = element.partition(b" ")
    return kind.decode(errors="replace"), body


def take_rest(store: Store, worker: str) -> list[tuple[str, bytes]]:
    """The letters that nobody reads any more, kind and body; each goes to one taker, however many ask."""
    found: list[tuple[str, bytes]] = []
    while (element := store.client.lpop(keys.mailbox(worker))) is not None:
        found.append(split(cast("bytes", element)))
    return found


class Mailbox:
    """Reads one worker's letters. Handlers run in its thread, one after the other: they hand the work on."""

    def __init__(
        self,
        store: Store,
        worker: str,
        handlers: Mapping[str, Callable[[bytes], None]],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._key = keys.mailbox(worker)
        self._handlers = dict(handlers)
        self._on_failure = on_failure
        self._lost = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mailbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more letters; the thread ends once its read has."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(2 * WAIT_S)

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self.run_once(WAIT_S)
                if self._lost:
                    self._stopped.wait(_PAUSE_S)
        except BaseException as error:
            log.exception("the mailbox died")
            self._on_failure(error)

    def run_once(self, timeout_s: float) -> bool:
        """Handle one letter if there is one within ``timeout_s``; whether there was."""
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
        kind, body = split(cast("tuple[bytes, bytes]", found)[1])
        self._handle(kind, body)
        return True

    def _handle(self, kind: str, body: bytes) -> None:
        handler = self._handlers.get(kind)
        if handler is None:
            log.error("a letter of an unknown kind is dropped", extra={"kind": kind[:40]})
            return
        try:
            handler(body)
        except Unreadable as error:
            log.error("a letter that can't be read is dropped: %s", error, extra={"kind": kind})
