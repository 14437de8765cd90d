"""Cancelling events, wherever they are.

An event that waits ends in the ledger. The attempt of an event in flight is claimed as ``void``: if that is granted, the
attempt never runs. If not, a worker runs it or starts an environment for it, and is sent a message
(``cancel <request id> <attempt>``) upon which the worker kills that environment. The ledger is told first, so what the worker
still says of the attempt changes nothing.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

from dispatcher.ledger import cancelling, listing
from dispatcher.ledger.ledger import Ledger
from dispatcher.ledger.listing import Filters
from dispatcher.redis_client import result_of, run_call
from workers.contract import keys
from workers.contract.scripts import claim

if TYPE_CHECKING:
    import redis.asyncio

    from dispatcher.ledger.rows import Event

#: How long the record of a void attempt lives: longer than a message may wait to be claimed, because a worker that did not
#: find the record would run what is cancelled.
_VOID_MS: Final = 180_000
#: The pause before another look at an attempt whose end is about to be known; the event is cancelled then if it goes on.
_PAUSE_S: Final = 0.1
#: The longest that one request to cancel takes; what is left is for the next request.
_WITHIN_S: Final = 5.0
#: How long the end of such an attempt is waited for.
_ENDING_S: Final = 3.0

log = logging.getLogger(__name__)


class NoSuchEvent(Exception):
    """The ledger does not have this event."""


class HasEnded(Exception):
    """The event has ended, so it is too late to cancel it. ``state`` says how."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the event has ended already: {state}")
        self.state = state


@dataclass(slots=True)
class Cancelled:
    """Which events were cancelled."""

    request_ids: list[str] = field(default_factory=list)
    more: bool = False
    """Whether there was no time for the rest."""


class Canceller:
    """One dispatcher's canceller. ``client`` is a connection to Redis that stays the caller's."""

    def __init__(self, ledger: Ledger, client: "redis.asyncio.Redis") -> None:
        self._ledger = ledger
        self._redis = client

    async def cancel(self, request_id: str) -> None:
        """Cancel one event. Raises :class:`NoSuchEvent`, :class:`HasEnded`, Redis' errors, and the database's."""
        deadline = time.monotonic() + _WITHIN_S
        while (row := await self._ledger.read(listing.find_event, request_id)) is not None:
            if row.state == "queued" and await self._cancel_queued([row]):
                return
            if row.state == "fed" and await self._cancel_in_flight(row) == "cancelled":
                return
            if row.state not in {"queued", "fed"}:
                raise HasEnded(row.state)
            if time.monotonic() > deadline:
                raise HasEnded("an attempt of it has, and its outcome is awaited")
            await asyncio.sleep(_PAUSE_S)
        raise NoSuchEvent(request_id)

    async def cancel_matching(self, filters: Filters) -> Cancelled:
        """Cancel what matches and was accepted until now, as much as a few seconds allow. Raises as :meth:`cancel`."""
        now_ms = self._ledger.clock.now_ms() + 1
        filters = replace(filters, until_ms=now_ms if filters.until_ms is None else min(filters.until_ms, now_ms))
        deadline = time.monotonic() + _WITHIN_S
        done = Cancelled()
        ending_since: float | None = None
        while True:
            left = await self._cancel_all_queued(filters, done, deadline)
            ending = 0
            for row in await self._ledger.read(cancelling.find_in_flight, filters) if filters.state != "queued" else ():
                word = await self._cancel_in_flight(row)
                if word == "cancelled":
                    done.request_ids.append(row.request_id)
                ending += word == "ending"
            if left or time.monotonic() > deadline:
                done.more = left or bool(ending)
                return done
            if not ending:
                return done
            # An attempt that has ended may put its event back into the queue.
            ending_since = ending_since or time.monotonic()
            if time.monotonic() - ending_since > _ENDING_S:
                return done
            await asyncio.sleep(_PAUSE_S)

    async def _cancel_all_queued(self, filters: Filters, done: Cancelled, deadline: float) -> bool:
        """Cancel queued events until the deadline; answers whether there may be more."""
        before: int | None = None
        while filters.state != "fed":
            rows = await self._ledger.read(cancelling.find_queued, filters, before)
            if not rows:
                break
            if time.monotonic() > deadline:
                return True
            before = rows[-1].id
            done.request_ids += await self._cancel_queued(rows)
        return False

    async def _cancel_queued(self, rows: "Iterable[Event]") -> list[str]:
        ids = [row.id for row in rows]
        cancelled = await self._ledger.write(cancelling.cancel_queued, ids, self._ledger.clock.now_ms())
        for row in cancelled:
            self._ledger.counters[row.function, row.lane, "cancelled"] += 1
        return [row.request_id for row in cancelled]

    async def _cancel_in_flight(self, row: "Event") -> Literal["cancelled", "ending", "changed"]:
        """Cancel an event in flight.

        Answers ``ending`` when the attempt has ended and the ledger does not know it yet, ``changed`` when the event is not
        in flight with this attempt any more.
        """
        record = keys.invocation(row.request_id)
        void = claim.void(request_id=row.request_id, attempt=row.attempt, asker="canceller", life_ms=_VOID_MS)
        worker = ""
        if await run_call(self._redis, void) != "void":
            found = await result_of(self._redis.hmget(record, "state", "attempt", "worker"))
            state, attempt, worker = ((value or b"").decode() for value in found)
            if attempt == str(row.attempt) and state not in {"run", "reserved"}:
                return "ending"
            if attempt != str(row.attempt):
                return "changed"
        if not await self._ledger.write(
            cancelling.cancel_in_flight, row.request_id, row.attempt, self._ledger.clock.now_ms()
        ):
            return "changed"
        self._ledger.counters[row.function, row.lane, "cancelled"] += 1
        if worker:
            await self._send_to_mailbox(worker, f"cancel {row.request_id} {row.attempt}")
        return "cancelled"

    async def _send_to_mailbox(self, worker: str, message: str) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.rpush(keys.mailbox(worker), message)
            pipe.pexpire(keys.mailbox(worker), keys.MAILBOX_MS)
            await pipe.execute()
        log.debug("a running event is cancelled", extra={"worker": worker})
