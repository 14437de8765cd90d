"""Starts and stops the parts of the asynchronous path together."""

import contextlib
from collections.abc import AsyncIterator

from dispatcher.events.deliverer import Deliverer
from dispatcher.events.destinations import Destinations
from dispatcher.events.feeder import Feeder
from dispatcher.events.settler import Settler
from dispatcher.events.sizing import Sizing
from dispatcher.operations.services import Services


@contextlib.asynccontextmanager
async def asynchronous_path(services: Services) -> AsyncIterator[None]:
    """Feeder, settler and deliverer run beside the API until the block ends."""
    ledger, settings = services.ledger, services.settings
    sizing = Sizing()
    feeder = Feeder(services, sizing)
    settler = Settler(ledger, settings.redis_url, services.sync_calls.name, sizing, lambda: feeder.wake(room=True))
    deliverer = Deliverer(ledger, Destinations(settings))
    ledger.on_due = feeder.wake
    ledger.on_delivery = deliverer.wake
    for part in (feeder, settler, deliverer):
        part.start()
    try:
        yield
    finally:
        for part in (feeder, settler, deliverer):
            await part.close()
