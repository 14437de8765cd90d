"""How many events of a function travel in one message: about half a second of work.

A Celery message costs over a millisecond, so short functions share one. But functions take turns by messages, and a slot that
runs one is not free for another: what is in a message is what everybody else may have to wait for.
"""

from collections import deque
from typing import Final

_TARGET_MS: Final = 500.0
MOST: Final = 100
_REMEMBERED: Final = 100
_MOST_FUNCTIONS: Final = 10_000


class Sizing:
    """The durations of each function's latest attempts, and the size of its messages that follows from them."""

    def __init__(self) -> None:
        self._durations: dict[str, deque[float]] = {}

    def note_duration(self, function: str, duration_ms: float) -> None:
        """Remember how long an attempt took."""
        found = self._durations.get(function)
        if found is None:
            if len(self._durations) >= _MOST_FUNCTIONS:
                self._durations.clear()
            found = self._durations[function] = deque(maxlen=_REMEMBERED)
        found.append(duration_ms)

    def size_of(self, function: str) -> int:
        """How many events the function's next message has: 1 while no duration is known."""
        found = self._durations.get(function)
        return size_for(list(found)) if found else 1


def size_for(durations_ms: list[float]) -> int:
    """How many events a message has, by the 90th percentile of these durations."""
    p90 = sorted(durations_ms)[(len(durations_ms) * 9 - 1) // 10]
    return max(1, min(MOST, int(_TARGET_MS / max(p90, 0.01))))
