"""What becomes of an event when an attempt has ended: AWS's rules, as a table."""

import pytest

from dispatcher.catalog.resolving import EventConfig
from dispatcher.clock import Clock
from dispatcher.ledger.deciding import (
    AGE_EXCEEDED,
    RETRIES_EXHAUSTED,
    SUCCESS,
    Decision,
    Kind,
    Standing,
    decide,
    too_old,
)

ACCEPTED = 1_700_000_000_000
REAL = Clock()
FAST = Clock(60)
#: As AWS has it.
BASE_S = 60.0
HOURS_6 = 6 * 3600
PASSING: tuple[Kind, ...] = ("system_error", "throttled", "lost", "died")


def after(
    kind: Kind,
    *,
    tries: int = 0,
    backoffs: int = 0,
    crashes: int = 0,
    at_s: float = 10.0,
    config: EventConfig | None = None,
    clock: Clock = REAL,
    base_s: float = BASE_S,
) -> Decision:
    """The decision ``at_s`` seconds after the event was accepted."""
    standing = Standing(ACCEPTED, tries, backoffs, crashes)
    return decide(standing, kind, config or EventConfig(), ACCEPTED + round(at_s * 1000), clock, base_s)


def queued(due_s: float, tries: int = 0, backoffs: int = 0, crashes: int = 0) -> Decision:
    return Decision("queued", tries, backoffs, crashes, ACCEPTED + round(due_s * 1000))


def failed(tries: int, backoffs: int = 0, crashes: int = 0) -> Decision:
    return Decision("failed", tries, backoffs, crashes, condition=RETRIES_EXHAUSTED)


@pytest.mark.parametrize(("tries", "backoffs", "crashes"), [(0, 0, 0), (2, 0, 0), (0, 5, 0), (1, 3, 2)], ids=str)
def test_success_ends_it_whatever_was_before(tries: int, backoffs: int, crashes: int) -> None:
    found = after("success", tries=tries, backoffs=backoffs, crashes=crashes)
    assert found == Decision("succeeded", tries + 1, 0, crashes, condition=SUCCESS)
    # One that was running when its time was over has succeeded all the same.
    assert after("success", at_s=HOURS_6 * 2).state == "succeeded"


@pytest.mark.parametrize(
    ("maximum", "tries", "expected"),
    [
        (2, 0, queued(10 + 60, tries=1)),
        (2, 1, queued(10 + 120, tries=2)),
        (2, 2, failed(3)),
        (1, 0, queued(10 + 60, tries=1)),
        (1, 1, failed(2)),
        (0, 0, failed(1)),
        # The limit was lowered while it waited.
        (0, 1, failed(2)),
    ],
)
def test_retries_of_what_the_function_failed(maximum: int, tries: int, expected: Decision) -> None:
    assert after("function_error", tries=tries, config=EventConfig(maximum_retries=maximum)) == expected


@pytest.mark.parametrize(("base_s", "first_s", "second_s"), [(60, 60, 120), (1, 1, 2), (0, 0, 0), (0.5, 0.5, 1)])
def test_the_base_delay_scales_both_retries(base_s: float, first_s: float, second_s: float) -> None:
    assert after("function_error", base_s=base_s) == queued(10 + first_s, tries=1)
    assert after("function_error", tries=1, base_s=base_s) == queued(10 + second_s, tries=2)


@pytest.mark.parametrize("kind", ["system_error", "throttled", "lost"])
def test_what_the_platform_failed_backs_off_and_uses_up_nothing(kind: Kind) -> None:
    waits = []
    for backoffs in range(12):
        found = after(kind, tries=1, backoffs=backoffs, config=EventConfig(maximum_retries=1))
        assert (found.state, found.tries, found.backoffs, found.crashes) == ("queued", 1, backoffs + 1, 0)
        waits.append((found.due_ms - ACCEPTED) / 1000 - 10)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    # More often than six hours have room for.
    assert after(kind, backoffs=900) == queued(10 + 300, backoffs=901)


def test_a_try_of_the_function_begins_the_backoff_anew() -> None:
    assert after("function_error", backoffs=7) == queued(10 + 60, tries=1, backoffs=0)


def test_interrupted_goes_on_at_once_and_counts_nowhere() -> None:
    assert after("interrupted", tries=2, backoffs=3, crashes=2) == queued(10, tries=2, backoffs=3, crashes=2)
    assert after("interrupted", tries=2, config=EventConfig(maximum_retries=0)).state == "queued"


def test_three_workers_may_die_with_it() -> None:
    assert after("died") == queued(10 + 1, backoffs=1, crashes=1)
    assert after("died", crashes=1, backoffs=1) == queued(10 + 2, backoffs=2, crashes=2)
    assert after("died", crashes=2, backoffs=2) == failed(0, backoffs=2, crashes=3)
    # Between them it may be lost or throttled as often as it likes.
    assert after("lost", crashes=2, backoffs=2) == queued(10 + 4, backoffs=3, crashes=2)


@pytest.mark.parametrize("kind", [*PASSING, "function_error", "interrupted"])
@pytest.mark.parametrize("at_s", [59.5, 60.0, 61.0, 5000.0])
def test_nothing_is_due_beyond_its_age(kind: Kind, at_s: float) -> None:
    found = after(kind, backoffs=8, at_s=at_s, config=EventConfig(maximum_age_s=60))
    # One that is too old by now is due now: the next look at it ends it.
    limit_s = max(at_s, 60.0)
    assert found.state == "queued"
    assert found.due_ms == ACCEPTED + (at_s if kind == "interrupted" else limit_s) * 1000


def test_an_event_older_than_its_maximum_age_is_too_old() -> None:
    config = EventConfig(maximum_age_s=60)
    assert not too_old(ACCEPTED, config, ACCEPTED + 59_999, REAL)
    assert too_old(ACCEPTED, config, ACCEPTED + 60_000, REAL)
    assert not too_old(ACCEPTED, EventConfig(), ACCEPTED + HOURS_6 * 1000 - 1, REAL)
    assert too_old(ACCEPTED, EventConfig(), ACCEPTED + HOURS_6 * 1000, REAL)
    assert AGE_EXCEEDED == "EventAgeExceeded"


def test_every_span_is_scaled_and_no_point_in_time() -> None:
    assert after("function_error", clock=FAST) == queued(10 + 1, tries=1)
    assert after("function_error", tries=1, clock=FAST) == queued(10 + 2, tries=2)
    assert after("throttled", backoffs=9, clock=FAST) == queued(10 + 5, backoffs=10)
    # Sixty minutes are over after one.
    config = EventConfig(maximum_age_s=3600)
    assert after("throttled", backoffs=9, at_s=58, config=config, clock=FAST) == queued(60, backoffs=10)
    assert too_old(ACCEPTED, config, ACCEPTED + 60_000, FAST)
    assert not too_old(ACCEPTED, config, ACCEPTED + 59_999, FAST)
