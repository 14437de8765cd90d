"""The metrics page as Prometheus reads it."""

import asyncio
from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from dispatcher.admin.metrics import Figures, metrics_text
from dispatcher.catalog import concurrency, event_configs
from dispatcher.catalog.catalog import Catalog
from dispatcher.catalog.event_configs import EventConfigChange
from dispatcher.catalog.functions import Ready
from dispatcher.catalog.resolving import Target
from dispatcher.ledger.listing import Gauge
from tests.services.metrics import samples_in
from tests.unit.test_ledger import QUEUE, Bench, key

FUNCTION = "000000000000:us-east-1:f"
LABELS = {"account": "000000000000", "region": "us-east-1", "function": "f", "lane": "event"}
#: Name, type and labels of every family: what dashboards and autoscalers are built on.
FAMILIES = [
    ("everwarm_workers", "gauge", {"mode"}),
    ("everwarm_slots", "gauge", {"mode"}),
    ("everwarm_environments", "gauge", {"state"}),
    ("everwarm_calls_waiting", "gauge", set()),
    ("everwarm_events_total", "counter", {*LABELS, "what"}),
    ("everwarm_event_attempts_total", "counter", {*LABELS, "kind"}),
    ("everwarm_deliveries_total", "counter", {*LABELS, "kind", "what"}),
    ("everwarm_events_queued", "gauge", set(LABELS)),
    ("everwarm_events_oldest_seconds", "gauge", set(LABELS)),
    ("everwarm_events_in_flight", "gauge", set(LABELS)),
]
COUNTERS = {
    (FUNCTION, "event", "accepted"): 3,
    (FUNCTION, "event", "attempts:throttled"): 2,
    (FUNCTION, "event", "deliveries:dead-letter:retried"): 4,
}
GAUGES = [Gauge(FUNCTION, "event", 7, 1000, 2), Gauge(FUNCTION, "replay", 0, None, 1)]


def page(**figures: Any) -> bytes:
    nothing = {"modes": (), "workers": (), "environments": (), "calls_waiting": 0, "counters": {}, "gauges": ()}
    return metrics_text(Figures(**{**nothing, "now_ms": 3500, **figures}))


def samples(text: bytes, *names: str) -> list[tuple[str, Mapping[str, str], float]]:
    return [sample for sample in samples_in(text) if sample[0] in names]


def test_every_family_has_the_name_the_type_and_the_labels_that_people_build_on() -> None:
    workers = [{"mode": "local", "slots": "4"}]
    text = page(modes=["local"], workers=workers, counters=COUNTERS, gauges=GAUGES)
    types = [line.split()[2:] for line in text.decode().splitlines() if line.startswith("# TYPE ")]
    labels = {name: set(found) for name, found, _ in samples_in(text)}
    assert [(name, kind, labels[name]) for name, kind in types] == FAMILIES
    assert [line.split()[2] for line in text.decode().splitlines() if line.startswith("# HELP ")] == [
        name for name, _, _ in FAMILIES
    ]


def test_the_families_are_there_before_anything_was_counted() -> None:
    assert [family.type for family in text_string_to_metric_families(page().decode())] == [
        kind for _, kind, _ in FAMILIES
    ]


def test_workers_slots_and_environments_are_counted() -> None:
    text = page(
        modes=["local", "docker"],
        workers=[{"mode": "local", "slots": "4"}, {"mode": "local", "slots": "2"}, {"mode": "docker", "slots": "1"}],
        environments=[{"state": "idle"}, {"state": "idle"}, {"state": "leased"}],
        calls_waiting=5,
    )
    assert samples(text, "everwarm_workers", "everwarm_slots", "everwarm_environments", "everwarm_calls_waiting") == [
        ("everwarm_workers", {"mode": "docker"}, 1),
        ("everwarm_workers", {"mode": "local"}, 2),
        ("everwarm_slots", {"mode": "docker"}, 1),
        ("everwarm_slots", {"mode": "local"}, 6),
        ("everwarm_environments", {"state": "starting"}, 0),
        ("everwarm_environments", {"state": "leased"}, 1),
        ("everwarm_environments", {"state": "idle"}, 2),
        ("everwarm_calls_waiting", {}, 5),
    ]


def test_label_values_are_escaped() -> None:
    odd = 'a"b\\c\nd'
    text = page(modes=[odd], workers=[{"mode": odd, "slots": "1"}])
    assert samples(text, "everwarm_workers") == [("everwarm_workers", {"mode": odd}, 1)]


def test_counters_are_of_events_attempts_and_deliveries() -> None:
    names = ("everwarm_events_total", "everwarm_event_attempts_total", "everwarm_deliveries_total")
    assert samples(page(counters=COUNTERS), *names) == [
        ("everwarm_events_total", {**LABELS, "what": "accepted"}, 3),
        ("everwarm_event_attempts_total", {**LABELS, "kind": "throttled"}, 2),
        ("everwarm_deliveries_total", {**LABELS, "kind": "dead-letter", "what": "retried"}, 4),
    ]


def test_gauges_tell_how_many_wait_and_for_how_long() -> None:
    replay = {**LABELS, "lane": "replay"}
    names = ("everwarm_events_queued", "everwarm_events_oldest_seconds", "everwarm_events_in_flight")
    assert samples(page(gauges=GAUGES, now_ms=3500), *names) == [
        ("everwarm_events_queued", LABELS, 7),
        ("everwarm_events_queued", replay, 0),
        ("everwarm_events_oldest_seconds", LABELS, 2.5),
        ("everwarm_events_in_flight", LABELS, 2),
        ("everwarm_events_in_flight", replay, 1),
    ]


def test_what_a_destination_makes_is_accepted_too(url: str) -> None:
    async def prepare(_target: Target) -> Ready:
        return Ready()

    async def work() -> None:
        catalog = await Catalog.open(url, prepare)
        try:
            bench = Bench(catalog)
            await bench.function("a", DeadLetterConfig={"TargetArn": QUEUE})
            await bench.function("b")
            change = EventConfigChange(maximum_retries=0, on_success=key("b").arn(), on_failure=key("b").arn())
            await catalog.write(event_configs.put, key("a"), None, change)

            def counted(name: str) -> dict[str, float]:
                own = {"account": key(name).account, "region": key(name).region, "function": name, "lane": "event"}
                found = samples(page(counters=bench.ledger.counters), "everwarm_events_total")
                return {labels["what"]: count for _, labels, count in found if own.items() <= labels.items()}

            # By an attempt that goes well, and by one that goes badly and has a dead letter beside it.
            good, bad, never = await bench.accept("a", 3)
            fed = [one.events[0].request_id for one in (await bench.feed({"local": 2})).fed]
            assert fed == [good, bad]
            endings = [bench.ending(good, 1), bench.ending(bad, 1, "function_error")]
            await bench.ledger.settle(endings)
            assert await bench.ledger.settle(endings) == []
            assert (counted("a"), counted("b")) == ({"accepted": 3, "succeeded": 1, "failed": 1}, {"accepted": 2})
            # Without an attempt, in a round of feeding.
            await catalog.write(concurrency.put, key("a"), 0, 1000, 100)
            assert [one.request_id for one in (await bench.feed()).ended] == [never]
            assert (counted("a"), counted("b")) == ({"accepted": 3, "succeeded": 1, "failed": 2}, {"accepted": 3})
        finally:
            await catalog.close()

    asyncio.run(work())
