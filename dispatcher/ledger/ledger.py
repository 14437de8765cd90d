"""The ledger of one dispatcher.

:class:`Ledger` gathers accepted events into common commits, runs this package's functions off the event loop, beside the
catalog's work on the same database, and counts what happened.
"""

import asyncio
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from dispatcher.clock import Clock
from dispatcher.ledger import accepting, feeding, settling
from dispatcher.ledger.accepting import NewEvent, key_text
from dispatcher.ledger.endings import Context, Ending, Settled
from dispatcher.ledger.ids import Ids
from dispatcher.sql.database import Database
from dispatcher.wire.errors import AwsError

T = TypeVar("T")
P = ParamSpec("P")

#: The most events and bytes in one insert.
_MANY: Final = 512
_MANY_BYTES: Final = 8 << 20
#: The part of the disk that must stay free, and how often that is measured.
_FREE: Final = 0.05
_MEASURE_S: Final = 1.0

log = logging.getLogger(__name__)


class Ledger:
    """The ledger of one dispatcher."""

    def __init__(
        self, database: Database, clock: Clock, *, retry_base_s: float, result_bytes: int, directory: Path | None
    ) -> None:
        """``directory`` has the database's files, and its disk is watched; None when a server keeps them."""
        self._database = database
        self._ids = Ids()
        self._numbers = iter(self._ids.next, 0)
        self.clock = clock
        self.context = Context(clock, retry_base_s, result_bytes, self._numbers)
        self._directory = directory
        self._measured_at = 0.0
        self._disk_full = False
        self._accepting: list[tuple[NewEvent, asyncio.Future[None]]] = []
        self._insert: asyncio.Task[None] | None = None
        self.on_due: Callable[[], None] = lambda: None
        """Called when something is due that was not before."""
        self.on_delivery: Callable[[], None] = lambda: None
        """Called when something is to be delivered."""
        self.counters: Counter[tuple[str, str, str]] = Counter()
        """(function, lane, what happened) → how often it did since this process began."""

    @property
    def shared(self) -> bool:
        """Whether other dispatchers work on the same ledger."""
        return self._database.shared

    async def close(self) -> None:
        """Wait for what is being accepted."""
        if self._insert is not None:
            await asyncio.wait([self._insert])

    # Accepting

    async def accept(self, event: NewEvent) -> None:
        """Keep an event; when this returns the event is on disk.

        What arrives while others are being written goes with the next commit, all together. Raises ``ServiceException``
        with status 503 when the disk is nearly full or the database can't be written.
        """
        if self._is_disk_full():
            raise AwsError("ServiceException", "The disk of the ledger is nearly full.", status=503)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._accepting.append((event, future))
        if self._insert is None:
            self._insert = asyncio.create_task(self._accept_all(), name="accept")
        await future
        self.counters[key_text(event.function), event.lane, "accepted"] += 1

    async def _accept_all(self) -> None:
        try:
            while self._accepting:
                batch = self._next_batch()
                try:
                    await self._insert_all([event for event, _ in batch])
                except Exception as error:  # noqa: BLE001 - every caller gets it
                    failure: Exception | None = error
                else:
                    failure = None
                    self.on_due()
                for _, future in batch:
                    if not future.done():
                        _resolve(future, failure)
        finally:
            self._insert = None

    async def _insert_all(self, new: list[NewEvent]) -> None:
        try:
            await self._database.write(self._accept, new)
        except IntegrityError:
            # Another dispatcher had the same number, which is one chance in a million: the events get others now.
            await self._database.write(self._accept, new)

    def _next_batch(self) -> list[tuple[NewEvent, "asyncio.Future[None]"]]:
        size, count = 0, 0
        for event, _ in self._accepting[:_MANY]:
            size += len(event.payload)
            if count and size > _MANY_BYTES:
                break
            count += 1
        taken, self._accepting = self._accepting[:count], self._accepting[count:]
        return taken

    def _accept(self, connection: Connection, new: Sequence[NewEvent]) -> None:
        accepting.accept(connection, new, self._numbers, self.clock.now_ms())

    def _is_disk_full(self) -> bool:
        now = time.monotonic()
        if self._directory is not None and now - self._measured_at > _MEASURE_S:
            self._measured_at = now
            usage = shutil.disk_usage(self._directory)
            self._disk_full = usage.free < _FREE * usage.total
        return self._disk_full

    # Feeding, settling, and everything else

    async def feed(self, plan: feeding.Plan) -> feeding.Round:
        """Do one round of :func:`dispatcher.ledger.feeding.feed`."""
        done = await self._database.write(feeding.feed, plan, self.context)
        self._count(done.ended)
        return done

    async def settle(self, endings: Sequence[Ending]) -> list[Settled]:
        """Apply endings of attempts; what comes too late is left out of the answer."""
        settled = await self._database.write(settling.settle, endings, self.context)
        self._count(settled)
        return settled

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one of this package's functions; when this returns its change is on disk."""
        return await self._database.write(work, *args, **kwargs)

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one of this package's functions that change nothing; nobody waits for it, however long it takes."""
        return await self._database.report(work, *args, **kwargs)

    def _count(self, settled: Sequence[Settled]) -> None:
        for one in settled:
            if one.kind is not None:
                self.counters[one.function, one.lane, f"attempts:{one.kind}"] += 1
            if one.state != "queued":
                self.counters[one.function, one.lane, one.state] += 1
            if one.invoked:
                self.counters[one.invoked, "event", "accepted"] += 1
        if any(one.state == "queued" for one in settled):
            self.on_due()
        if any(one.has_consequences for one in settled):
            self.on_due()
            self.on_delivery()


def _resolve(future: "asyncio.Future[Any]", error: Exception | None) -> None:
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
