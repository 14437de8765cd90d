"""Synchronous calls after Redis lost everything: what runs is waited for, and what waits is published once more."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import redis.asyncio

from dispatcher.calls.admission import Slot
from dispatcher.calls.fleet import Fleet
from dispatcher.calls.sync_calls import SyncCalls
from dispatcher.catalog.resolving import EventConfig, Target
from dispatcher.redis_client import connect, run_call
from tests.services.in_process import spec
from tests.services.redis import RedisServer
from workers.contract import keys
from workers.contract.broker import queue
from workers.contract.messages import Invocation, Outcome, encode
from workers.contract.scripts import attempts, claim, notices

SPEC = spec()
QUEUE = queue("local", "sync")


class CountingFleet(Fleet):
    """Counts how often it was inspected; each time is followed by a look at the calls that wait."""

    inspections = 0

    async def inspect(self) -> None:
        await super().inspect()
        self.inspections += 1


async def until(description: str, condition: Callable[[], object]) -> None:
    for _ in range(750):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited 15 s until {description}")


class Scene:
    """A dispatcher's calls with one of them under way, and a worker that the test plays."""

    def __init__(self, client: "redis.asyncio.Redis", fleet: CountingFleet, calls: SyncCalls) -> None:
        self.client = client
        self.fleet = fleet
        self.calls = calls

    @property
    def sent(self) -> Invocation:
        return self.calls._calls["i"].invocation

    async def beat(self) -> None:
        description = {"mode": "local", "slots": "1", "stopping": "0"}
        await run_call(
            self.client, notices.heartbeat(worker="w", life_ms=60_000, new_epoch="one more", description=description)
        )

    async def claim(self) -> None:
        await self.client.delete(QUEUE)
        asked = claim.run(self.sent, worker="w", environment="e", life_ms=60_000)
        assert await run_call(self.client, asked) == "run"

    async def lose_redis(self) -> None:
        await self.client.flushall()

    async def look_again(self, times: int) -> None:
        """Until the dispatcher has looked at its calls so many times more."""
        most = self.fleet.inspections + times
        await until("the dispatcher has looked again", lambda: self.fleet.inspections > most)


@asynccontextmanager
async def scene_of(server: RedisServer, queue_wait_s: float) -> AsyncIterator[tuple[Scene, "asyncio.Task[Outcome]"]]:
    client = connect(server.url)
    fleet = CountingFleet(server.url, function_secret=b"x")
    calls = SyncCalls(server.url, fleet, queue_wait_s=queue_wait_s)
    scene = Scene(client, fleet, calls)
    await scene.beat()
    await calls.start()
    target = Target(SPEC, encode(SPEC), "$LATEST", SPEC.arn, None, "Active", "", None, "", EventConfig())
    slot = Slot(keys.concurrency(SPEC.account, SPEC.region), 10, "r")
    invocation = Invocation(request_id="i", lane="sync", invoked_arn=SPEC.arn, payload=b"1", claim_by_ms=0, reply_to="")
    call = asyncio.create_task(calls.invoke(target, slot, "local", invocation, ""))
    try:
        await until("the call is published", lambda: "i" in calls._calls and calls._calls["i"].accepted_at)
        yield scene, call
    finally:
        call.cancel()
        await calls.close()
        await fleet.close()
        await client.flushall()
        await client.aclose()


def play(
    server: RedisServer, queue_wait_s: float, part: Callable[[Scene, "asyncio.Task[Outcome]"], Awaitable[None]]
) -> None:
    async def run() -> None:
        async with scene_of(server, queue_wait_s) as (scene, call):
            await part(scene, call)

    asyncio.run(run())


@pytest.mark.parametrize("queue_wait_s", [0.5, 30.0], ids=["older than its time in the queue", "young"])
def test_a_running_call_is_waited_for_when_redis_is_lost(redis_server: RedisServer, queue_wait_s: float) -> None:
    async def part(scene: Scene, call: "asyncio.Task[Outcome]") -> None:
        await scene.claim()
        await until("it was seen running", lambda: scene.calls._calls["i"].seen_running)
        await scene.lose_redis()
        await scene.look_again(4)
        assert not call.done()
        await scene.beat()
        again = attempts.rejoin(SPEC, scene.sent, worker="w", environment="e", left_ms=60_000)
        assert await run_call(scene.client, again) == "rejoined", "nobody took the attempt's place in the meantime"
        await scene.look_again(1)
        outcome = Outcome(request_id="i", attempt=1, kind="success", payload=b"ok")
        assert (
            await run_call(scene.client, attempts.finish(SPEC, scene.sent, encode(outcome), life_ms=60_000)) == "done"
        )
        assert (await call).payload == b"ok"

    play(redis_server, queue_wait_s, part)


def test_a_running_call_ends_when_its_worker_does_not_come_back(redis_server: RedisServer) -> None:
    async def part(scene: Scene, call: "asyncio.Task[Outcome]") -> None:
        await scene.claim()
        await until("it was seen running", lambda: scene.calls._calls["i"].seen_running)
        await scene.lose_redis()
        await scene.look_again(1)
        await scene.beat()
        with pytest.raises(Exception, match="The invocation's record is gone") as caught:
            await asyncio.wait_for(call, 15)
        assert getattr(caught.value, "status", 0) == 500

    play(redis_server, 30.0, part)


def test_a_waiting_call_is_published_once_more_when_redis_is_lost(redis_server: RedisServer) -> None:
    async def part(scene: Scene, call: "asyncio.Task[Outcome]") -> None:
        await scene.lose_redis()
        await scene.look_again(1)
        await scene.beat()
        await until("it is published again", lambda: scene.sent.attempt == 2)
        await scene.look_again(8)
        assert scene.sent.attempt == 2
        assert await scene.client.llen(QUEUE) == 1
        assert not call.done()

    play(redis_server, 60.0, part)
