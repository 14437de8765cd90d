"""The ledger's figures as Prometheus reads them."""

from dispatcher.ledger.listing import Gauge
from dispatcher.metrics import counter_lines, gauge_lines

FUNCTION = "000000000000:us-east-1:f"
LABELS = 'account="000000000000",region="us-east-1",function="f",lane="event"'


def samples(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("#")]


def test_counters_are_of_events_and_of_attempts() -> None:
    counters = {(FUNCTION, "event", "accepted"): 3, (FUNCTION, "event", "attempts:throttled"): 2}
    assert samples(counter_lines(counters)) == [
        f'everwarm_events_total{{{LABELS},what="accepted"}} 3',
        f'everwarm_event_attempts_total{{{LABELS},kind="throttled"}} 2',
    ]


def test_gauges_tell_how_many_wait_and_for_how_long() -> None:
    found = gauge_lines([Gauge(FUNCTION, "event", 7, 1000, 2), Gauge(FUNCTION, "replay", 0, None, 1)], 3500)
    replay = LABELS.replace("event", "replay")
    assert samples(found) == [
        f"everwarm_events_queued{{{LABELS}}} 7",
        f"everwarm_events_queued{{{replay}}} 0",
        f"everwarm_events_oldest_seconds{{{LABELS}}} 2.500",
        f"everwarm_events_in_flight{{{LABELS}}} 2",
        f"everwarm_events_in_flight{{{replay}}} 1",
    ]
