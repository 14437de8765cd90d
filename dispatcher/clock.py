"""The one clock of the asynchronous path: everything that waits there waits by this clock.

``EVERWARM_TIME_SCALE`` makes all its spans shorter, so that six hours of retries run in seconds. Points in time stay real:
what stands in the ledger can be compared with any other log.
"""

import time


class Clock:
    """Real time, with spans divided by ``scale``."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale

    @staticmethod
    def now_ms() -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def span_ms(self, seconds: float) -> int:
        """How many real milliseconds a wait of ``seconds`` takes under the time scale."""
        return int(seconds * 1000 / self._scale)
