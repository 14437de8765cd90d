"""The ledger's figures in Prometheus' text format: what a person looks at, and an autoscaler decides by."""

from collections.abc import Iterable, Mapping

from dispatcher.ledger.accepting import key_of
from dispatcher.ledger.listing import Gauge


def counter_lines(counters: Mapping[tuple[str, str, str], int]) -> list[str]:
    """Counted since this dispatcher began: events by what became of them, and attempts by how they ended."""
    lines = [
        "# HELP everwarm_events_total Asynchronous invocations: accepted, succeeded, failed or cancelled.",
        "# TYPE everwarm_events_total counter",
    ]
    lines += [
        f'everwarm_events_total{{{_labels(function, lane)},what="{what}"}} {count}'
        for (function, lane, what), count in sorted(counters.items())
        if not what.startswith("attempts:")
    ]
    lines += [
        "# HELP everwarm_event_attempts_total Their attempts, by how they ended.",
        "# TYPE everwarm_event_attempts_total counter",
    ]
    lines += [
        f'everwarm_event_attempts_total{{{_labels(function, lane)},kind="{what.removeprefix("attempts:")}"}} {count}'
        for (function, lane, what), count in sorted(counters.items())
        if what.startswith("attempts:")
    ]
    return lines


def gauge_lines(found: Iterable[Gauge], now_ms: int) -> list[str]:
    """What waits and runs now, the same from every dispatcher of one ledger."""
    rows = list(found)
    lines = [
        "# HELP everwarm_events_queued Events that wait, for a slot or for their next attempt.",
        "# TYPE everwarm_events_queued gauge",
    ]
    lines += [f"everwarm_events_queued{{{_labels(row.function, row.lane)}}} {row.queued}" for row in rows]
    lines += [
        "# HELP everwarm_events_oldest_seconds Age of the oldest event that waits.",
        "# TYPE everwarm_events_oldest_seconds gauge",
    ]
    lines += [
        f"everwarm_events_oldest_seconds{{{_labels(row.function, row.lane)}}} {max(now_ms - row.oldest_ms, 0) / 1000:.3f}"
        for row in rows
        if row.oldest_ms is not None
    ]
    lines += [
        "# HELP everwarm_events_in_flight Events that are with a worker or on their way to one.",
        "# TYPE everwarm_events_in_flight gauge",
    ]
    lines += [f"everwarm_events_in_flight{{{_labels(row.function, row.lane)}}} {row.fed}" for row in rows]
    return lines


def _labels(function: str, lane: str) -> str:
    key = key_of(function)
    return f'account="{key.account}",region="{key.region}",function="{key.name}",lane="{lane}"'
