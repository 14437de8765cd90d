"""The asynchronous path beside the ledger: what moves events between it, the workers and the world.

``feeder`` sends what is due to the workers, and looks after what is in flight; ``settler`` applies the outcomes that come
back; ``deliverer`` sends what follows an end through ``destinations``; ``cancelling`` stops what somebody wants stopped. None
of them keeps anything that the ledger does not have: each can die at any moment, on any dispatcher.
"""

import contextlib
from collections.abc import AsyncIterator

from dispatcher.events.deliverer import Deliverer
from dispatcher.events.destinations import Destinations
from dispatcher.events.feeder import Feeder
from dispatcher.events.settler import Settler
from dispatcher.events.sizing import Sizing
from dispatcher.operations.services import Services


@contextlib.asynccontextmanager
async def running(services: Services) -> AsyncIterator[None]:
    """All of it, beside the API, until the block ends."""
    ledger, settings = services.ledger, services.settings
    sizing = Sizing()
    feeder = Feeder(services, sizing)
    settler = Settler(ledger, settings.redis_url, services.sync_calls.name, sizing, lambda: feeder.wake(room=True))
    deliverer = Deliverer(ledger, Destinations(settings))
    ledger.on_due = feeder.wake
    ledger.on_follow = deliverer.wake
    for part in (feeder, settler, deliverer):
        part.start()
    try:
        yield
    finally:
        for part in (feeder, settler, deliverer):
            await part.close()
