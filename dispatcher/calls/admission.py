"""How many invocations of a function, or of an account, may run at a time.

A function with reserved concurrency has a set of its own, with that limit; all others of an account and region share one,
limited by what is left of the account's (AWS, "Configuring reserved concurrency"). Which set and which limit is decided
here; counting is the business of ``enqueue.lua``, in the same step that publishes.
"""

import time
from dataclasses import dataclass
from typing import Final

from dispatcher.catalog import concurrency
from dispatcher.catalog.catalog import Catalog
from dispatcher.catalog.resolving import SHARED_TTL_S, Target
from dispatcher.settings import DispatcherSettings
from workers.contract import keys

RESERVED_EXCEEDED: Final = "ReservedFunctionConcurrentInvocationLimitExceeded"
ACCOUNT_EXCEEDED: Final = "ConcurrentInvocationLimitExceeded"


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an invocation is counted, and what a refusal says."""

    key: str
    limit: int
    reason: str


class Admission:
    """The limits of concurrent invocations, and the set in which each invocation is counted."""

    def __init__(self, catalog: Catalog, settings: DispatcherSettings) -> None:
        self._catalog = catalog
        self._account_limit = settings.concurrent_executions
        self._reserved: dict[tuple[str, str], tuple[int, float, int]] = {}
        """Account and region → the catalog's generation and the monotonic time of reading, and the sum of all reservations."""

    async def slot(self, target: Target) -> Slot:
        """The slot that a call of ``target`` takes."""
        spec = target.spec
        if target.reserved_concurrency is not None:
            key = keys.concurrency(spec.account, spec.region, spec.function)
            return Slot(key, target.reserved_concurrency, RESERVED_EXCEEDED)
        reserved = await self._reserved_sum(spec.account, spec.region)
        return Slot(
            keys.concurrency(spec.account, spec.region), max(0, self._account_limit - reserved), ACCOUNT_EXCEEDED
        )

    async def _reserved_sum(self, account: str, region: str) -> int:
        found = self._reserved.get((account, region))
        generation = self._catalog.generation
        fresh = not self._catalog.shared or (found is not None and time.monotonic() - found[1] < SHARED_TTL_S)
        if found is not None and found[0] == generation and fresh:
            return found[2]
        total = await self._catalog.read(concurrency.reserved, account, region)
        self._reserved[account, region] = (generation, time.monotonic(), total)
        return total
