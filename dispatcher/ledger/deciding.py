"""What becomes of an event when an attempt has ended: AWS's rules as one pure function.

Sources: Lambda developer guide, "Error handling for asynchronous invocations" (two retries after one and two minutes by
default; throttles and system errors go back to the queue from 1 second up to 5 minutes apart, until the event is too old,
and use up no retry), and "Configuring error handling settings" (0 to 2 retries, 60 seconds to 6 hours).
"""

from typing import Final, Literal

import msgspec

from dispatcher.catalog.resolving import EventConfig
from dispatcher.clock import Clock

Kind = Literal["success", "function_error", "system_error", "throttled", "interrupted", "lost", "died"]
State = Literal["queued", "succeeded", "failed"]

SUCCESS: Final = "Success"
RETRIES_EXHAUSTED: Final = "RetriesExhausted"
AGE_EXCEEDED: Final = "EventAgeExceeded"
ZERO_CONCURRENCY: Final = "ZeroReservedConcurrency"

#: How many workers may die while they run an event before it fails, because the event may be what kills them.
MOST_CRASHES: Final = 3
_LONGEST_BACKOFF_S: Final = 300.0


class Standing(msgspec.Struct, frozen=True, gc=False):
    """How far an event is. ``accepted_ms`` is when it was accepted, in ms since 1970."""

    accepted_ms: int
    tries: int
    """Attempts that the function itself ended."""
    backoffs: int
    """Throttles and system errors since the last of those."""
    crashes: int
    """Attempts whose worker died while they ran."""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What becomes of the event: its new state and counts. A queued event is not due before ``due_ms``."""

    state: State
    tries: int
    backoffs: int
    crashes: int
    due_ms: int = 0
    condition: str = ""


def decide(
    event: Standing, kind: Kind, config: EventConfig, now_ms: int, clock: Clock, retry_base_s: float
) -> Decision:
    """Decide what becomes of an event whose attempt ended as ``kind`` says.

    An attempt was ``interrupted`` when its worker stopped, is ``lost`` when it never began, and ``died`` with its worker.
    """
    tries, backoffs, crashes = event.tries, event.backoffs, event.crashes
    expires_ms = event.accepted_ms + clock.span_ms(config.maximum_age_s)

    def queued(wait_s: float) -> Decision:
        # No pause goes beyond the maximum age: the event is due then, and the feeder ends it.
        due_ms = min(now_ms + clock.span_ms(wait_s), max(expires_ms, now_ms))
        return Decision("queued", tries, backoffs, crashes, due_ms)

    if kind == "success":
        return Decision("succeeded", tries + 1, 0, crashes, condition=SUCCESS)
    if kind == "function_error":
        tries += 1
        if tries > config.maximum_retries:
            return Decision("failed", tries, 0, crashes, condition=RETRIES_EXHAUSTED)
        backoffs = 0
        return queued(retry_base_s * tries)
    if kind == "interrupted":
        return queued(0)
    if kind == "died":
        crashes += 1
        if crashes >= MOST_CRASHES:
            return Decision("failed", tries, backoffs, crashes, condition=RETRIES_EXHAUSTED)
    backoffs += 1
    return queued(min(2.0 ** (backoffs - 1), _LONGEST_BACKOFF_S))


def too_old(accepted_ms: int, config: EventConfig, now_ms: int, clock: Clock) -> bool:
    """Whether an event waits for longer than its function allows."""
    return now_ms - accepted_ms >= clock.span_ms(config.maximum_age_s)
