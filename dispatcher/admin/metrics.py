"""The ledger's figures in Prometheus' text format: what a person looks at, and an autoscaler decides by."""

from collections.abc import Iterable, Mapping
from typing import Final

from dispatcher.ledger.accepting import key_of
from dispatcher.ledger.listing import Gauge

#: What a counter's key begins with: name of the metric, its help, and the labels that the rest of the key gives.
_COUNTERS: Final = {
    "": ("everwarm_events_total", "Asynchronous invocations: accepted, succeeded, failed or cancelled.", ("what",)),
    "attempts:": ("everwarm_event_attempts_total", "Their attempts, by how they ended.", ("kind",)),
    "deliveries:": (
        "everwarm_deliveries_total",
        "Records and dead letters: delivered, retried, or failed for good.",
        ("kind", "what"),
    ),
}


def counter_lines(counters: Mapping[tuple[str, str, str], int]) -> list[str]:
    """Counted since this dispatcher began: events by what became of them, attempts and deliveries by how they ended."""
    lines = []
    for prefix, (name, help_text, labels) in _COUNTERS.items():
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} counter"]
        for (function, lane, key), count in sorted(counters.items()):
            start, colon, _ = key.partition(":")
            if (start + colon if colon else "") == prefix:
                values = key.removeprefix(prefix).split(":")
                own = ",".join(f'{label}="{value}"' for label, value in zip(labels, values, strict=True))
                lines.append(f"{name}{{{_labels(function, lane)},{own}}} {count}")
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
