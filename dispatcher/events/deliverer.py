"""The deliverer: sends what the end of an event causes to be sent, and records how that went.

One target that hangs must delay no other, so each may have only a few deliveries under way. Each delivery has a thread of its
own, because asyncio's few are needed for requests, and a pool's are waited for when the process ends.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Final

from dispatcher.events.destinations import Delivery, DeliveryError, Destinations
from dispatcher.ledger import deliveries
from dispatcher.ledger.consequences import REFUSED
from dispatcher.ledger.deliveries import Due, Room
from dispatcher.ledger.endings import storable
from dispatcher.ledger.ledger import Ledger
from dispatcher.loops import cancel, forever

#: How often deliveries are looked for without being told, because on PostgreSQL another dispatcher may have died with one.
_TICK_S: Final = 5.0

log = logging.getLogger(__name__)


class Deliverer:
    """One dispatcher's deliverer."""

    def __init__(self, ledger: Ledger, destinations: Destinations) -> None:
        self._ledger = ledger
        self._destinations = destinations
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._under_way: dict[asyncio.Task[None], str] = {}
        """Each delivery, and its target."""

    def start(self) -> None:
        """Deliver in the background from now on."""
        self._task = asyncio.create_task(forever(self._step, "delivering"), name="deliverer")

    def wake(self) -> None:
        """Tell the deliverer that something is to be delivered."""
        self._due.set()

    async def close(self) -> None:
        """Stop; what was under way is tried again later."""
        if self._task is not None:
            await cancel(self._task)
        await cancel(*self._under_way)

    async def _step(self) -> None:
        self._due.clear()
        clock = self._ledger.clock
        room = Room(self._under_way.values())
        found = await self._ledger.write(deliveries.claim_due, clock.now_ms(), room)
        for due in found:
            task = asyncio.create_task(self._deliver(due), name="delivery")
            self._under_way[task] = due.target
            task.add_done_callback(self._ended)
        if found:
            return
        next_ms = await self._ledger.read(deliveries.next_due, room)
        pause_s = _TICK_S if next_ms is None else min(_TICK_S, max(next_ms - clock.now_ms(), 1) / 1000)
        try:
            await asyncio.wait_for(self._due.wait(), pause_s)
        except TimeoutError:
            return

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self._under_way[task]
        self._due.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # How the delivery went could not be recorded; or this is an error of ours.
            log.error("a delivery is tried again in a minute", exc_info=error)

    async def _deliver(self, due: Due) -> None:
        delivery = Delivery(
            kind=due.kind,
            target=due.target,
            body=due.body,
            attributes=due.attributes,
            request_id=due.request_id,
            function_arn=due.function_arn,
            success=due.success,
            trace_id=due.trace_id,
        )
        try:
            if REFUSED in due.attributes:
                raise DeliveryError(due.attributes[REFUSED], final=True)
            await _in_thread(partial(self._destinations.send, delivery))
        except DeliveryError as error:
            abandoned = await self._ledger.write(
                deliveries.record_failure, due, storable(str(error)), self._ledger.clock, final=error.final
            )
            self._count(due, "failed" if abandoned else "retried")
            log.log(
                logging.ERROR if abandoned else logging.WARNING,
                "a delivery failed" if abandoned else "a delivery failed and is tried again",
                extra={"request_id": due.request_id, "target": due.target, "error": str(error)},
            )
        else:
            await self._ledger.write(deliveries.record_success, [due.id], self._ledger.clock.now_ms())
            self._count(due, "delivered")

    def _count(self, due: Due, what: str) -> None:
        self._ledger.counters[due.function, due.lane, f"deliveries:{due.kind}:{what}"] += 1


async def _in_thread(work: Callable[[], None]) -> None:
    """Do the work in a thread that nobody waits for when the process ends; the delivery is tried again then."""
    done: Future[None] = Future()

    def send() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=send, name="delivery", daemon=True).start()
    await asyncio.wrap_future(done)
