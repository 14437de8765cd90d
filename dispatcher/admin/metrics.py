"""The metrics page: what a person looks at, and what an autoscaler decides by, as ``prometheus_client`` writes it.

All figures of one answer are read first and stand in a :class:`Figures`; :class:`FiguresCollector` makes metric families of
them. Counters count since this dispatcher began; gauges of events are the same from every dispatcher of one ledger.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dispatcher.ledger.accepting import key_of
from dispatcher.ledger.listing import Gauge

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_STATES: Final = ("starting", "leased", "idle")
_FUNCTION: Final = ("account", "region", "function", "lane")
#: Where in a counter's key its name begins: metric, help, and the labels that the rest of the key gives.
_COUNTERS: Final = {
    "": ("everwarm_events_total", "Asynchronous invocations: accepted, succeeded, failed or cancelled.", ("what",)),
    "attempts": ("everwarm_event_attempts_total", "Their attempts, by how they ended.", ("kind",)),
    "deliveries": (
        "everwarm_deliveries_total",
        "Records and dead letters: delivered, retried, or failed for good.",
        ("kind", "what"),
    ),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that one answer of the page tells."""

    modes: Iterable[str]
    """The modes that a living worker serves."""
    workers: Sequence[Mapping[str, str]]
    """What the living workers say of themselves."""
    environments: Sequence[Mapping[str, Any]]
    """The records of all environments."""
    calls_waiting: int
    """Synchronous calls under way."""
    counters: Mapping[tuple[str, str, str], int]
    """Function (``account:region:name``), lane and what was counted → how often."""
    gauges: Sequence[Gauge]
    """What waits and runs now, by function and lane."""
    now_ms: int
    """Milliseconds since 1970."""


def metrics_text(figures: Figures) -> bytes:
    """The figures in Prometheus' text format (:data:`CONTENT_TYPE`)."""
    return generate_latest(FiguresCollector(figures))


class FiguresCollector(Collector):
    """Makes Prometheus' metric families of one answer's figures."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """All families, in the order of the page."""
        yield from self._fleet_families()
        yield from self._counter_families()
        yield from self._gauge_families()

    def _fleet_families(self) -> Iterator[Metric]:
        figures = self._figures
        workers = GaugeMetricFamily("everwarm_workers", "Living workers.", labels=("mode",))
        slots = GaugeMetricFamily("everwarm_slots", "Invocations that can run at a time.", labels=("mode",))
        for mode in sorted(figures.modes):
            slots_each = [int(worker["slots"]) for worker in figures.workers if worker["mode"] == mode]
            workers.add_metric((mode,), len(slots_each))
            slots.add_metric((mode,), sum(slots_each))
        environments = GaugeMetricFamily("everwarm_environments", "Environments by state.", labels=("state",))
        for state in _STATES:
            environments.add_metric((state,), sum(record.get("state") == state for record in figures.environments))
        yield workers
        yield slots
        yield environments
        yield GaugeMetricFamily("everwarm_calls_waiting", "Synchronous calls under way.", figures.calls_waiting)

    def _counter_families(self) -> Iterator[Metric]:
        families = {
            prefix: CounterMetricFamily(name, help_text, labels=(*_FUNCTION, *labels))
            for prefix, (name, help_text, labels) in _COUNTERS.items()
        }
        for (function, lane, counted), count in sorted(self._figures.counters.items()):
            prefix, colon, rest = counted.partition(":")
            own = rest.split(":") if colon else (counted,)
            families[prefix if colon else ""].add_metric((*_function_labels(function, lane), *own), count)
        yield from families.values()

    def _gauge_families(self) -> Iterator[Metric]:
        queued = GaugeMetricFamily(
            "everwarm_events_queued", "Events that wait, for a slot or for their next attempt.", labels=_FUNCTION
        )
        oldest = GaugeMetricFamily(
            "everwarm_events_oldest_seconds", "Age of the oldest event that waits.", labels=_FUNCTION
        )
        in_flight = GaugeMetricFamily(
            "everwarm_events_in_flight", "Events that are with a worker or on their way to one.", labels=_FUNCTION
        )
        for row in self._figures.gauges:
            labels = _function_labels(row.function, row.lane)
            queued.add_metric(labels, row.queued)
            in_flight.add_metric(labels, row.fed)
            if row.oldest_ms is not None:
                oldest.add_metric(labels, max(self._figures.now_ms - row.oldest_ms, 0) / 1000)
        yield queued
        yield oldest
        yield in_flight


def _function_labels(function: str, lane: str) -> tuple[str, str, str, str]:
    key = key_of(function)
    return key.account, key.region, key.name, lane
