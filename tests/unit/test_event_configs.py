"""Event configurations in the catalog: what a call resolves to, and what goes with a qualifier."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dispatcher.catalog import aliases, event_configs, functions
from dispatcher.catalog.catalog import Catalog
from dispatcher.catalog.event_configs import EventConfigChange, service_of
from dispatcher.catalog.functions import Draft, Ready
from dispatcher.catalog.resolving import EventConfig, Target
from dispatcher.catalog.rows import Code, FunctionKey
from dispatcher.wire.errors import AwsError
from tests.services.postgres import PostgresServer

KEY = FunctionKey("111111111111", "eu-central-1", "fn")
QUEUE = "arn:aws:sqs:eu-central-1:111111111111:queue"
TOPIC = "arn:aws:sns:eu-central-1:111111111111:topic"
CONFIG: dict[str, Any] = {
    "Runtime": "python3.12", "Handler": "h.h", "Timeout": 3, "MemorySize": 128, "EphemeralStorage": {"Size": 512},
    "Architectures": ["x86_64"], "PackageType": "Zip", "LoggingConfig": {"LogGroup": "/aws/lambda/fn"},
}  # fmt: skip


def using(url: str, work: Callable[[Catalog], Awaitable[None]]) -> None:
    """With a function that has the versions 1, with a dead-letter queue, and 2, and the alias ``live`` of both."""

    async def prepare(_target: Target) -> Ready:
        return Ready()

    async def run() -> None:
        catalog = await Catalog.open(url, prepare)
        try:
            config = {**CONFIG, "DeadLetterConfig": {"TargetArn": QUEUE}}
            await catalog.write(functions.create, KEY, Draft(config, Code(sha256="ab", size=10), {}, publish=True))
            await catalog.activate(KEY)
            await catalog.write(functions.update_configuration, KEY, None, lambda _latest: CONFIG)
            await catalog.activate(KEY)
            await catalog.write(functions.publish, KEY, None, None, None)
            await catalog.write(aliases.create, KEY, "live", "1", "", {"2": 0.5})
            await work(catalog)
        finally:
            await catalog.close()

    asyncio.run(run())


async def resolved(catalog: Catalog, qualifier: str | None = None, random: float = 0.9) -> EventConfig:
    target = await catalog.resolve(*KEY, qualifier, random=lambda: random)
    return target.event_config


def test_a_call_has_the_configuration_of_the_qualifier_that_it_names(url: str) -> None:
    async def work(catalog: Catalog) -> None:
        assert await resolved(catalog) == EventConfig()
        assert await resolved(catalog, "1") == EventConfig(dead_letter=QUEUE)
        before = (await catalog.resolve(*KEY)).spec.revision
        await catalog.write(
            event_configs.put, KEY, None, EventConfigChange(maximum_age_s=60, maximum_retries=0, on_success=TOPIC)
        )
        await catalog.write(event_configs.put, KEY, "01", EventConfigChange(maximum_retries=1))
        own = EventConfig(maximum_retries=0, maximum_age_s=60, on_success=TOPIC)
        assert [await resolved(catalog, qualifier) for qualifier in (None, "$LATEST")] == [own, own]
        assert await resolved(catalog, "1") == EventConfig(maximum_retries=1, dead_letter=QUEUE)
        assert (await catalog.resolve(*KEY)).spec.revision == before

        # An alias: its own or the defaults, and the dead-letter queue of the version that runs.
        assert await resolved(catalog, "live") == EventConfig(dead_letter=QUEUE)
        await catalog.write(event_configs.put, KEY, "live", EventConfigChange(maximum_age_s=100))
        assert await resolved(catalog, "live") == EventConfig(maximum_age_s=100, dead_letter=QUEUE)
        assert await resolved(catalog, "live", random=0.1) == EventConfig(maximum_age_s=100)

        await catalog.write(event_configs.remove, KEY, "live")
        assert await resolved(catalog, "live", random=0.1) == EventConfig()

    using(url, work)


def test_put_replaces_and_update_changes(url: str) -> None:
    async def work(catalog: Catalog) -> None:
        await catalog.write(event_configs.put, KEY, None, EventConfigChange(60, 0, TOPIC, QUEUE))
        changed = await catalog.write(event_configs.update, KEY, None, EventConfigChange(maximum_retries=1))
        assert (changed.maximum_age_s, changed.maximum_retries, changed.on_success) == (60, 1, TOPIC)
        cleared = await catalog.write(event_configs.update, KEY, None, EventConfigChange(on_success=""))
        assert (cleared.maximum_age_s, cleared.on_success, cleared.on_failure) == (60, "", QUEUE)
        replaced = await catalog.write(event_configs.put, KEY, None, EventConfigChange(maximum_retries=2))
        assert (replaced.maximum_age_s, replaced.maximum_retries, replaced.on_failure) == (None, 2, "")
        assert await catalog.read(event_configs.read, KEY, "$LATEST") == replaced

    using(url, work)


def test_configurations_go_with_what_they_configure(url: str) -> None:
    async def work(catalog: Catalog) -> None:
        async def left() -> list[str]:
            page = await catalog.read(event_configs.list_configs, KEY, None, None)
            return [config.qualifier for config in page.items]

        for qualifier in (None, "1", "2", "live"):
            await catalog.write(event_configs.put, KEY, qualifier, EventConfigChange(maximum_retries=0))
        assert await left() == ["$LATEST", "1", "2", "live"]
        await catalog.write(aliases.remove, KEY, "live")
        await catalog.write(functions.delete_version, KEY, "02")
        assert await left() == ["$LATEST", "1"]
        await catalog.write(functions.delete_function, KEY)
        await catalog.write(functions.create, KEY, Draft(CONFIG, Code(sha256="ab", size=10), {}))
        assert await left() == []
        assert await resolved(catalog) == EventConfig()

    using(url, work)


def test_dispatchers_that_put_at_once_leave_one_whole_configuration(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()

    async def work(catalog: Catalog) -> None:
        changes = [EventConfigChange(60 + number, None, f"{QUEUE}{number}", f"{TOPIC}{number}") for number in range(20)]
        await asyncio.gather(*(catalog.write(event_configs.put, KEY, "1", change) for change in changes))
        found = await catalog.read(event_configs.read, KEY, "1")
        assert EventConfigChange(found.maximum_age_s, None, found.on_success, found.on_failure) in changes

    using(url, work)


@pytest.mark.parametrize(
    ("arn", "service"),
    [
        (QUEUE, "sqs"),
        (TOPIC, "sns"),
        ("arn:aws-cn:lambda:cn-north-1:111111111111:function:other", "lambda"),
        ("arn:aws:lambda:eu-central-1:111111111111:function:other:live", "lambda"),
        ("arn:aws:events:eu-central-1:111111111111:event-bus/aws.partner/x.com/1", "events"),
        ("arn:aws:s3:::my.bucket", "s3"),
        ("arn:aws:s3:eu-central-1:111111111111:bucket", ""),
        ("arn:aws:s3:::bucket/key", ""),
        (f"{QUEUE}.fifo", ""),
        (f"{TOPIC}.fifo", ""),
        (f"{TOPIC}:8a21d249-4329-4871-acc6-7be709c6ea7f", ""),  # a subscription
        ("arn:aws:events:eu-central-1:111111111111:rule/r", ""),
        ("arn:aws:lambda:eu-central-1:111111111111:layer:other:1", ""),
        ("arn:aws:sqs:eu-central-1::queue", ""),
        ("arn:aws:sqs::111111111111:queue", ""),
        ("arn:aws:dynamodb:eu-central-1:111111111111:table/t", ""),
        ("https://sqs.eu-central-1.amazonaws.com/111111111111/queue", ""),
        (f"{QUEUE}\n", ""),
    ],
)
def test_an_arn_tells_its_service(arn: str, service: str) -> None:
    assert service_of(arn) == service


def test_a_destination_is_a_function_of_the_account_that_is_there(url: str) -> None:
    async def work(catalog: Catalog) -> None:
        other, foreign = KEY._replace(name="other"), KEY._replace(account="222222222222")
        for key in (other, foreign):
            await catalog.write(functions.create, key, Draft(CONFIG, Code(sha256="ab", size=10), {}, publish=True))
            await catalog.activate(key)
        for arn in (other.arn(), other.arn("$LATEST"), other.arn("1"), other.arn("01")):
            await catalog.write(event_configs.put, KEY, None, EventConfigChange(on_failure=arn))
        missing = KEY._replace(name="none").arn()
        for arn in (missing, other.arn("2"), other.arn("live"), foreign.arn(), foreign._replace(name="none").arn()):
            with pytest.raises(AwsError, match="is invalid"):
                await catalog.write(event_configs.put, KEY, None, EventConfigChange(on_failure=arn))

    using(url, work)
