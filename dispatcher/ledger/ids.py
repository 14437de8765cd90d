"""Numbers of events: microseconds since 1970, and ten random bits, because there may be other dispatchers.

The numbers grow with the time of acceptance, so the ledger's order, its ``since`` and ``until`` and its retention by age
need no index of their own.
"""

import random
import threading
import time
from typing import Final

_RANDOM_BITS: Final = 10


class Ids:
    """The numbers that one dispatcher gives, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_us = 0

    def next(self) -> int:
        """A number that no event has."""
        with self._lock:
            self._last_us = max(time.time_ns() // 1000, self._last_us + 1)
            return self._last_us << _RANDOM_BITS | random.getrandbits(_RANDOM_BITS)


def accepted_ms(event_id: int) -> int:
    """When the event was accepted, in milliseconds since 1970."""
    return (event_id >> _RANDOM_BITS) // 1000


def first_of(at_ms: int) -> int:
    """The smallest number that an event accepted at ``at_ms`` (ms since 1970) or later may have."""
    return at_ms * 1000 << _RANDOM_BITS
