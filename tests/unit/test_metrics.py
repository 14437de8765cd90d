"""The ledger's figures as Prometheus reads them."""

import asyncio

from dispatcher.admin.metrics import counter_lines, gauge_lines
from dispatcher.catalog import concurrency, event_configs
from dispatcher.catalog.catalog import Catalog
from dispatcher.catalog.event_configs import EventConfigChange
from dispatcher.catalog.functions import Ready
from dispatcher.catalog.resolving import Target
from dispatcher.ledger.listing import Gauge
from tests.unit.test_ledger import QUEUE, Bench, key

FUNCTION = "000000000000:us-east-1:f"
LABELS = 'account="000000000000",region="us-east-1",function="f",lane="event"'


def samples(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("#")]


def test_counters_are_of_events_attempts_and_deliveries() -> None:
    counters = {
        (FUNCTION, "event", "accepted"): 3,
        (FUNCTION, "event", "attempts:throttled"): 2,
        (FUNCTION, "event", "deliveries:dead-letter:retried"): 4,
    }
    assert samples(counter_lines(counters)) == [
        f'everwarm_events_total{{{LABELS},what="accepted"}} 3',
        f'everwarm_event_attempts_total{{{LABELS},kind="throttled"}} 2',
        f'everwarm_deliveries_total{{{LABELS},kind="dead-letter",what="retried"}} 4',
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

            def counted(name: str) -> dict[str, int]:
                labels = f'account="{key(name).account}",region="{key(name).region}",function="{name}",lane="event"'
                start = f'everwarm_events_total{{{labels},what="'
                lines = [line for line in counter_lines(bench.ledger.counters) if line.startswith(start)]
                return {what: int(count) for what, count in (line.removeprefix(start).split('"} ') for line in lines)}

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
