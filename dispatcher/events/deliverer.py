"""The deliverer: sends what follows the end of an event, and records how that went."""

import asyncio
import logging
from typing import Final

from dispatcher.background import cancel
from dispatcher.events.destinations import Delivery, DeliveryError, Destinations
from dispatcher.events.loops import forever
from dispatcher.ledger import Ledger, deliveries
from dispatcher.ledger.deliveries import Due
from dispatcher.ledger.settling import storable

#: Sent at a time, each in a thread.
_MANY: Final = 16
#: On PostgreSQL another dispatcher may have died with one.
_TICK_S: Final = 5.0

log = logging.getLogger(__name__)


class Deliverer:
    """One dispatcher's deliverer."""

    def __init__(self, ledger: Ledger, destinations: Destinations) -> None:
        self._ledger = ledger
        self._destinations = destinations
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Go on in the background."""
        self._task = asyncio.create_task(forever(self._step, "delivering"), name="deliverer")

    def wake(self) -> None:
        """Something is to be delivered."""
        self._due.set()

    async def close(self) -> None:
        """Stop; what was under way is tried again later."""
        if self._task is not None:
            await cancel(self._task)

    async def _step(self) -> None:
        self._due.clear()
        clock = self._ledger.clock
        found = await self._ledger.write(deliveries.take, clock.now_ms(), _MANY)
        if found:
            await asyncio.gather(*(self._deliver(due) for due in found))
            return
        next_ms = await self._ledger.read(deliveries.next_due)
        pause_s = _TICK_S if next_ms is None else min(_TICK_S, max(next_ms - clock.now_ms(), 1) / 1000)
        try:
            await asyncio.wait_for(self._due.wait(), pause_s)
        except TimeoutError:
            return

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
            await asyncio.to_thread(self._destinations.send, delivery)
        except DeliveryError as error:
            given_up = await self._ledger.write(
                deliveries.failed, due, storable(str(error)), self._ledger.clock, final=error.final
            )
            log.log(
                logging.ERROR if given_up else logging.WARNING,
                "a delivery failed" if given_up else "a delivery failed and is tried again",
                extra={"request_id": due.request_id, "target": due.target, "error": str(error)},
            )
        else:
            await self._ledger.write(deliveries.delivered, [due.id], self._ledger.clock.now_ms())
