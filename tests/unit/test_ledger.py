"""The ledger on real databases: what is accepted, fed and settled, and what changes nothing."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import func, select, update

from dispatcher import recursion_guard
from dispatcher.catalog import aliases, concurrency, event_configs, functions
from dispatcher.catalog.catalog import Catalog
from dispatcher.catalog.event_configs import EventConfigChange
from dispatcher.catalog.functions import Draft, Ready
from dispatcher.catalog.resolving import Target
from dispatcher.catalog.rows import Code, FunctionKey
from dispatcher.clock import Clock
from dispatcher.ledger import deliveries
from dispatcher.ledger.accepting import NewEvent
from dispatcher.ledger.consequences import REFUSED
from dispatcher.ledger.deciding import Kind
from dispatcher.ledger.deliveries import Room
from dispatcher.ledger.endings import Ending, Settled, storable
from dispatcher.ledger.feeding import FLIGHT_BYTES, MESSAGE_BYTES, Fed, Plan, Round
from dispatcher.ledger.ledger import Ledger
from dispatcher.sql import tables
from dispatcher.wire.errors import AwsError
from tests.services.postgres import PostgresServer
from workers.contract.messages import Mode

ACCOUNT, REGION = "111111111111", "eu-central-1"
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:queue"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:topic"
CONFIG: dict[str, Any] = {
    "Runtime": "python3.12", "Handler": "h.h", "Timeout": 3, "MemorySize": 128, "EphemeralStorage": {"Size": 512},
    "Architectures": ["x86_64"], "PackageType": "Zip", "LoggingConfig": {"LogGroup": "/aws/lambda/fn"},
}  # fmt: skip
#: Slots without an end.
MANY = {"local": 1000, "docker": 1000, "docker-reuse": 1000}
Work = Callable[["Bench"], Awaitable[None]]


class FakeClock(Clock):
    """Stands still until it is moved. It begins with the real time, since events' numbers are made of that."""

    def __init__(self) -> None:
        super().__init__()
        self.ms = Clock.now_ms()

    def now_ms(self) -> int:  # type: ignore[override]
        """Milliseconds since 1970."""
        return self.ms

    def pass_s(self, seconds: float) -> None:
        """Move it."""
        self.ms += round(seconds * 1000)


def key(name: str) -> FunctionKey:
    return FunctionKey(ACCOUNT, REGION, name)


class Bench:
    """A catalog and a ledger on one database, with short ways to use them."""

    def __init__(self, catalog: Catalog, clock: Clock | None = None) -> None:
        self.catalog = catalog
        self.clock = cast("FakeClock", clock or FakeClock())
        self.ledger = Ledger(catalog.database, self.clock, retry_base_s=60, result_bytes=100, directory=None)
        self.sizes: dict[str, int] = {}
        """Function → events in a message; 1 unless it stands here."""
        self.after = ""
        self._names = iter(f"{uuid.uuid4().hex[:8]}-{number}" for number in range(1 << 30))

    async def function(self, name: str, mode: Mode | None = None, **config: Any) -> None:
        """Create one, and wait until it is Active."""
        tags = {"everwarm:mode": mode} if mode else {}
        draft = Draft({**CONFIG, **config}, Code(sha256="ab", size=10), tags, publish=True)
        await self.catalog.write(functions.create, key(name), draft)
        await self.catalog.activate(key(name))

    async def accept(self, name: str, count: int = 1, **members: Any) -> list[str]:
        """Accept that many; answers their request ids."""
        new = [
            NewEvent(str(uuid.uuid4()), key(name), **{"qualifier": "", "payload": b"{}", **members})
            for _ in range(count)
        ]
        await asyncio.gather(*(self.ledger.accept(one) for one in new))
        return [one.request_id for one in new]

    async def feed(self, most: dict[str, int] | None = None) -> Round:
        """One round, which goes on where the last one ended."""

        def mode_of(target: Target) -> Mode:
            return target.mode or "local"

        plan = Plan(
            MANY if most is None else most,
            mode_of,
            lambda function: self.sizes.get(function.rpartition(":")[2], 1),
            lambda: next(self._names),
            self.catalog.cached,
            self.after,
        )
        done = await self.ledger.feed(plan)
        self.after = done.after
        return done

    async def settle(self, fed: Sequence[Fed], kind: Kind = "success", **members: Any) -> list[Settled]:
        """End every event of these messages like that."""
        return await self.ledger.settle(
            [self.ending(one.request_id, one.attempt, kind, **members) for message in fed for one in message.events]
        )

    def ending(self, request_id: str, attempt: int, kind: Kind = "success", **members: Any) -> Ending:
        now = self.clock.now_ms()
        return Ending(request_id, attempt, kind, now - 5, now, **{"version": "$LATEST", **members})

    async def row(self, request_id: str) -> Any:
        """What the ledger has of an event."""
        query = select(tables.events).where(tables.events.c.request_id == request_id)
        return await self.ledger.read(lambda connection: connection.execute(query).one())

    async def count(self, table: Any) -> int:
        query = select(func.count()).select_from(table)
        return await self.ledger.read(lambda connection: connection.execute(query).scalar_one())

    async def attempts(self, request_id: str) -> list[Any]:
        number = (await self.row(request_id)).id
        query = select(tables.attempts).where(tables.attempts.c.event_id == number).order_by(tables.attempts.c.number)
        return await self.ledger.read(lambda connection: list(connection.execute(query)))

    @asynccontextmanager
    async def commits(self) -> AsyncIterator[list[None]]:
        """One item for each transaction that wrote."""
        engine: Any = self.catalog.database._engine
        found: list[None] = []

        def note(_: object) -> None:
            found.append(None)

        sqlalchemy_event.listen(engine, "commit", note)
        try:
            yield found
        finally:
            sqlalchemy_event.remove(engine, "commit", note)


def names_of(fed: Sequence[Fed]) -> list[str]:
    return [one.target.spec.function for one in fed]


def ids_of(fed: Sequence[Fed]) -> list[str]:
    return [one.request_id for message in fed for one in message.events]


@pytest.fixture
def run(url: str) -> Callable[[Work], None]:
    """Runs a test's coroutine with a bench on the database."""

    async def prepare(_target: Target) -> Ready:
        return Ready()

    async def within(work: Work) -> None:
        catalog = await Catalog.open(url, prepare)
        try:
            await work(Bench(catalog))
        finally:
            await catalog.close()

    return lambda work: asyncio.run(within(work))


Run = Callable[[Work], None]

# --- accepting ---


def test_what_comes_together_is_committed_together(run: Run) -> None:
    async def work(bench: Bench) -> None:
        async with bench.commits() as commits:
            ids = await bench.accept("fn", 1200, payload=b'"x"', qualifier="live", trace_id="Root=1", origin="somebody")
        # The first goes alone at once, all that came meanwhile with the next ones, 512 at most.
        assert len(commits) <= 4
        assert await bench.count(tables.events) == await bench.count(tables.payloads) == len(set(ids)) == 1200
        row = await bench.row(ids[700])
        assert (row.state, row.function, row.qualifier, row.lane) == (
            "queued",
            f"{ACCOUNT}:{REGION}:fn",
            "live",
            "event",
        )
        assert (row.size, row.attempt, row.tries, row.trace_id, row.origin) == (3, 0, 0, "Root=1", "somebody")
        assert bench.ledger.counters[f"{ACCOUNT}:{REGION}:fn", "event", "accepted"] == 1200

    run(work)


def test_large_ones_are_not_gathered_without_end(run: Run) -> None:
    async def work(bench: Bench) -> None:
        async with bench.commits() as commits:
            await bench.accept("fn", 20, payload=b'"' + b"x" * (1 << 20) + b'"')
        assert 3 <= len(commits) <= 5

    run(work)


def test_each_of_a_failing_commit_is_told(run: Run) -> None:
    async def work(bench: Bench) -> None:
        (there,) = await bench.accept("fn")
        twice = NewEvent(there, key("fn"), "", b"{}")
        found = await asyncio.gather(
            *(bench.ledger.accept(twice) for _ in range(3)), bench.accept("fn"), return_exceptions=True
        )
        assert all(isinstance(one, Exception) for one in found[:3])
        assert (await bench.accept("fn"), await bench.count(tables.events))[1] in {2, 3}

    run(work)


def test_a_disk_that_is_nearly_full_takes_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(bench: Bench) -> None:
        full = Ledger(bench.catalog.database, bench.clock, retry_base_s=60, result_bytes=1, directory=tmp_path)
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 4, "total": 100}))
        with pytest.raises(AwsError, match="nearly full") as caught:
            await full.accept(NewEvent("id", key("fn"), "", b"{}"))
        assert (caught.value.code, caught.value.status) == ("ServiceException", 503)
        assert await bench.count(tables.events) == 0

    run(work)


# --- feeding ---


def test_functions_take_turns_when_events_are_fed(run: Run) -> None:
    async def work(bench: Bench) -> None:
        for name, count in {"a": 50, "b": 2, "c": 50}.items():
            await bench.function(name)
            await bench.accept(name, count)
        assert names_of((await bench.feed({"local": 5})).fed) == ["a", "b", "c", "a", "b"]
        # All slots are taken, and it says so.
        none = await bench.feed({"local": 5})
        assert (none.fed, none.full) == ([], True)
        # The next round goes on after the last one.
        assert names_of((await bench.feed({"local": 9})).fed) == ["c", "a", "c", "a"]

    run(work)


def test_the_oldest_goes_first_and_messages_have_their_size(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        bench.sizes["a"] = 3
        ids = await bench.accept("a", 7)
        done = await bench.feed()
        assert [len(message.events) for message in done.fed] == [3, 3, 1]
        assert ids_of(done.fed) == ids
        assert len({message.message for message in done.fed}) == 3
        assert all(one.attempt == 1 and one.payload == b"{}" for message in done.fed for one in message.events)
        row = await bench.row(ids[0])
        assert (row.state, row.attempt, row.mode, row.message) == ("fed", 1, "local", done.fed[0].message)

    run(work)


def test_where_each_starts_a_container_a_message_has_one(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a", "docker")
        bench.sizes["a"] = 3
        ids = await bench.accept("a", 4)
        done = await bench.feed()
        assert [len(message.events) for message in done.fed] == [1] * 4
        assert ids_of(done.fed) == ids

    run(work)


def test_what_is_due_is_found_behind_any_number_that_wait(run: Run) -> None:
    async def work(bench: Bench) -> None:
        new = [NewEvent(str(uuid.uuid4()), key(f"a{number}"), "", b"{}") for number in range(10_050)]
        await asyncio.gather(*(bench.ledger.accept(one) for one in new))
        later = update(tables.events).values(due_at=bench.clock.ms + 60_000)
        await bench.ledger.write(lambda connection: connection.execute(later))
        await bench.function("b")
        ids = await bench.accept("b")
        assert ids_of((await bench.feed()).fed) == ids

    run(work)


def test_each_mode_has_its_own_slots(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        await bench.function("b", "docker")
        await bench.function("c", "docker-reuse")
        for name in "abc":
            await bench.accept(name, 5)
        done = await bench.feed({"local": 1, "docker": 3})
        assert Counter((one.mode, one.target.spec.function) for one in done.fed) == {
            ("local", "a"): 1,
            ("docker", "b"): 3,
        }
        await bench.settle(done.fed[:1])
        assert len((await bench.feed({"local": 1, "docker": 3})).fed) == 1

    run(work)


def test_reserved_concurrency_counts_messages(run: Run) -> None:
    async def work(bench: Bench) -> None:
        for name in "ab":
            await bench.function(name)
            bench.sizes[name] = 2
            await bench.accept(name, 20)
        await bench.catalog.write(concurrency.put, key("a"), 2, 1000, 100)
        done = await bench.feed({"local": 8})
        assert Counter(names_of(done.fed)) == {"a": 2, "b": 6}
        await bench.settle([one for one in done.fed if one.target.spec.function == "a"][:1])
        assert names_of((await bench.feed({"local": 100})).fed).count("a") == 1

    run(work)


def test_replays_come_after_events(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        await bench.accept("a", 2, lane="replay")
        await bench.accept("a", 2)
        done = await bench.feed({"local": 1})
        assert [one.lane for one in done.fed] == ["event"]
        assert [one.lane for one in (await bench.feed({"local": 2})).fed] == ["event"]
        assert {one.lane for one in (await bench.feed({"local": 4})).fed} == {"replay"}

    run(work)


def test_a_message_has_few_bytes_and_one_event_at_least(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        bench.sizes["a"] = 100
        third = b'"' + b"x" * (MESSAGE_BYTES * 2 // 5) + b'"'
        await bench.accept("a", 5, payload=third)
        await bench.accept("a", payload=b'"' + b"x" * 3 * MESSAGE_BYTES + b'"')
        assert [len(one.events) for one in (await bench.feed()).fed] == [2, 2, 1, 1]

    run(work)


def test_what_is_in_flight_has_a_limit_in_bytes(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        large = 8 << 20
        await bench.accept("a", FLIGHT_BYTES // large + 4, payload=b'"' + b"x" * large + b'"')
        done = await bench.feed()
        assert (len(done.fed), done.full) == (FLIGHT_BYTES // large, True)
        assert (await bench.feed()).fed == []
        await bench.settle(done.fed[:1])
        assert len((await bench.feed()).fed) == 1

    run(work)


def test_a_message_is_of_one_qualifier_and_each_has_its_target(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        await bench.catalog.write(aliases.create, key("a"), "live", "1", "", {})
        bench.sizes["a"] = 100
        for qualifier in ("", "live", "1", "", "live"):
            await bench.accept("a", qualifier=qualifier)
        done = await bench.feed()
        arn = key("a").arn()
        assert [(one.target.invoked_arn, one.target.executed_version, len(one.events)) for one in done.fed] == [
            (arn, "$LATEST", 2),
            (f"{arn}:live", "1", 2),
            (f"{arn}:1", "1", 1),
        ]

    run(work)


def test_an_aliass_configuration_is_its_own(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        await bench.catalog.write(aliases.create, key("a"), "live", "1", "", {})
        await bench.catalog.write(
            event_configs.put, key("a"), "live", EventConfigChange(maximum_age_s=60, maximum_retries=0)
        )
        (plain,) = await bench.accept("a")
        (live,) = await bench.accept("a", qualifier="live")
        settled = await bench.settle((await bench.feed()).fed, "function_error")
        assert {one.request_id: one.state for one in settled} == {plain: "queued", live: "failed"}
        (old,) = await bench.accept("a", qualifier="live")
        bench.clock.pass_s(61)
        done = await bench.feed()
        assert ids_of(done.fed) == [plain], "its retry is due after a minute"
        assert [(one.request_id, one.condition, one.kind) for one in done.ended] == [(old, "EventAgeExceeded", None)]

    run(work)


def test_what_is_too_old_ends_although_nothing_has_room(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        await bench.catalog.write(event_configs.put, key("a"), None, EventConfigChange(maximum_age_s=60))
        bench.sizes["a"] = 10
        ids = await bench.accept("a", 25)
        assert (await bench.feed({})).ended == []
        bench.clock.pass_s(61)  # a number has the real time in it, which has gone on since the clock was made
        done = await bench.feed({})
        assert [one.request_id for one in done.ended] == ids
        row = await bench.row(ids[3])
        assert (row.state, row.condition, row.attempt, row.ended_at) == (
            "failed",
            "EventAgeExceeded",
            0,
            bench.clock.ms,
        )
        assert await bench.count(tables.attempts) == 0

    run(work)


def test_no_concurrency_at_all_is_an_end_at_once(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        await bench.catalog.write(concurrency.put, key("a"), 0, 1000, 100)
        (one,) = await bench.accept("a")
        assert [(s.state, s.condition) for s in (await bench.feed()).ended] == [("failed", "ZeroReservedConcurrency")]
        assert (await bench.row(one)).attempt == 0

    run(work)


def test_of_a_function_that_is_gone(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        await bench.function("b")
        await bench.catalog.write(aliases.create, key("b"), "live", "1", "", {})
        gone = await bench.accept("a", 3)
        (unqualified,) = await bench.accept("b", qualifier="live")
        await bench.catalog.write(functions.delete_function, key("a"))
        await bench.catalog.write(aliases.remove, key("b"), "live")
        done = await bench.feed()
        assert done.fed == []
        assert {one.request_id for one in done.ended} == {*gone, unqualified}
        row = await bench.row(gone[0])
        assert (row.state, row.condition, row.error_type) == ("failed", "", "ResourceNotFoundException")
        assert row.error_message.endswith(f"Function not found: {key('a').arn('$LATEST')}")
        # In flight when it is deleted: its end is settled, with AWS's defaults.
        await bench.function("a")
        (running,) = await bench.accept("a")
        done = await bench.feed()
        await bench.catalog.write(functions.delete_function, key("a"))
        assert [one.state for one in await bench.settle(done.fed, "function_error")] == ["queued"]
        bench.clock.pass_s(60)
        assert [one.request_id for one in (await bench.feed()).ended] == [running]

    run(work)


def test_a_loop_is_stopped_and_the_rest_of_its_message_goes_on(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        bench.sizes["a"] = 10
        trace = ""
        for _ in range(17):
            trace = recursion_guard.follow(trace, key("a").arn())
        (first,) = await bench.accept("a")
        (loop,) = await bench.accept("a", trace_id=trace)
        (last,) = await bench.accept("a")
        done = await bench.feed()
        assert ids_of(done.fed) == [first, last]
        assert [(one.request_id, one.condition) for one in done.ended] == [(loop, "RetriesExhausted")]
        assert (await bench.row(loop)).error_type == "RecursiveInvocationException"

    run(work)


def test_two_functions_that_catch_each_others_failures_end(run: Run) -> None:
    """Ends without an attempt cause events too: no chain of them goes on for ever."""

    async def work(bench: Bench) -> None:
        for name in "ab":
            await bench.function(name)
            await bench.catalog.write(concurrency.put, key(name), 0, 1000, 100)
        for name, other in (("a", "b"), ("b", "a")):
            change = EventConfigChange(on_failure=key(other).arn(None))
            await bench.catalog.write(event_configs.put, key(name), None, change)
        await bench.accept("a")
        for _ in range(100):
            await bench.feed()
        assert await bench.count(tables.events) == 2 * recursion_guard.MOST + 1
        query = select(tables.deliveries.c.attributes)
        (refused,) = await bench.ledger.read(lambda connection: list(connection.execute(query).scalars()))
        assert recursion_guard.MESSAGE in refused

    run(work)


def test_a_backlog_that_may_not_run_is_ended_in_parts(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        await bench.function("b")
        await bench.accept("a", 1000)
        await bench.accept("b")
        await bench.catalog.write(concurrency.put, key("a"), 0, 1000, 100)
        first = await bench.feed()
        assert names_of(first.fed) == ["b"]
        assert 100 <= len(first.ended) <= 300
        assert first.more
        rounds = 1
        while (await bench.feed()).more:
            rounds += 1
        assert rounds < 12
        assert await bench.count(tables.events) == 1001

    run(work)


def test_what_is_not_ready_stands_in_nobodys_way(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        await bench.accept("a", qualifier="1")
        await bench.accept("a")
        pending = update(tables.versions).where(tables.versions.c.number == 1).values(state="Pending")
        await bench.catalog.write(lambda connection, _: connection.execute(pending), key("a"))
        assert [one.target.executed_version for one in (await bench.feed()).fed] == ["$LATEST"]
        active = update(tables.versions).where(tables.versions.c.number == 1).values(state="Active")
        await bench.catalog.write(lambda connection, _: connection.execute(active), key("a"))
        assert [one.target.executed_version for one in (await bench.feed()).fed] == ["1"]

    run(work)


def test_what_is_due_later_waits_and_its_time_is_told(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        (one,) = await bench.accept("a")
        await bench.settle((await bench.feed()).fed, "throttled")
        done = await bench.feed()
        assert (done.fed, done.next_ms) == ([], bench.clock.ms + 1000)
        bench.clock.pass_s(1)
        done = await bench.feed()
        assert [(e.request_id, e.attempt) for message in done.fed for e in message.events] == [(one, 2)]
        assert done.next_ms is None

    run(work)


def test_a_round_over_many_functions_with_many_events_is_bounded(run: Run) -> None:
    async def work(bench: Bench) -> None:
        for number in range(20):
            await bench.function(f"f{number:02}")
        await bench.accept("f00", 3000)
        for number in range(1, 20):
            await bench.accept(f"f{number:02}")
        done = await bench.feed({"local": 20})
        assert sorted(names_of(done.fed)) == [f"f{number:02}" for number in range(20)]

    run(work)


# --- settling ---


def test_an_event_and_its_retries(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        (one,) = await bench.accept("a")
        waited = []
        for number in (1, 2, 3):
            done = await bench.feed()
            assert [e.attempt for message in done.fed for e in message.events] == [number]
            result = json.dumps({"errorMessage": "x" * 2000}).encode()
            await bench.settle(
                done.fed, "function_error", error_type="ValueError", error_message="x" * 2000, result=result
            )
            row = await bench.row(one)
            waited.append((row.due_at - bench.clock.ms) / 1000 if row.state == "queued" else row.state)
            bench.clock.pass_s(60 * number)
        assert waited == [60, 120, "failed"]
        assert (row.condition, row.tries, row.error_type, row.error_message) == (
            "RetriesExhausted", 3, "ValueError", "x" * 1024,
        )  # fmt: skip
        found = await bench.attempts(one)
        assert [(a.number, a.kind, len(a.result), a.result_size) for a in found] == [
            (number, "function_error", 100, 2020) for number in (1, 2, 3)
        ]

    run(work)


def test_what_is_late_changes_nothing(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        (one,) = await bench.accept("a")
        await bench.settle((await bench.feed()).fed, "lost")
        assert await bench.settle([], "success") == []

        async def unchanged(*endings: Ending) -> None:
            before = await bench.row(one)
            assert await bench.ledger.settle(endings) == []
            assert await bench.row(one) == before

        # Queued again; then in flight as the second attempt; then ended.
        await unchanged(bench.ending(one, 1), bench.ending(one, 2))
        bench.clock.pass_s(1)
        done = await bench.feed()
        await unchanged(bench.ending(one, 1), bench.ending(one, 3), bench.ending("nobody", 1))
        twice = [bench.ending(one, 1, "function_error"), bench.ending(one, 2), bench.ending(one, 2, "function_error")]
        assert [s.state for s in await bench.ledger.settle(twice)] == ["succeeded"]
        await unchanged(bench.ending(one, 2), bench.ending(one, 2, "died"))
        assert await bench.settle(done.fed) == []
        assert [(a.number, a.kind) for a in await bench.attempts(one)] == [(1, "lost"), (2, "success")]

    run(work)


def test_an_end_and_what_follows_are_one_change(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a", DeadLetterConfig={"TargetArn": QUEUE})
        await bench.function("b")
        change = EventConfigChange(maximum_retries=0, on_success=key("b").arn(), on_failure=TOPIC)
        await bench.catalog.write(event_configs.put, key("a"), None, change)
        (good, bad) = await bench.accept("a", 2, payload=b'{"n" : 1}')
        done = await bench.feed()
        settled = await bench.ledger.settle(
            [
                bench.ending(good, 1, result=b'"ok"'),
                bench.ending(bad, 1, "function_error", result=b"{}", error_message="no"),
            ]
        )
        assert [(one.state, one.has_consequences) for one in settled] == [("succeeded", True), ("failed", True)]
        # A destination that is a function of this server gets an event of its own.
        (other,) = (await bench.feed()).fed
        assert (other.target.spec.function, len(done.fed)) == ("b", 2)
        record = json.loads(other.events[0].payload)
        assert record["requestContext"]["requestId"] == good
        row = await bench.row(other.events[0].request_id)
        assert (row.parent, row.origin) == (good, "destination:a")
        due = await bench.ledger.write(deliveries.claim_due, bench.clock.ms, Room(()))
        assert sorted((one.kind, one.target, one.request_id, one.success) for one in due) == [
            ("dead-letter", QUEUE, bad, False),
            ("destination", TOPIC, bad, False),
        ]
        letter = next(one for one in due if one.kind == "dead-letter")
        assert (letter.body, letter.attributes["ErrorMessage"]) == (b'{"n" : 1}', "no")

    run(work)


def test_a_destination_of_another_account_from_before_is_a_failed_delivery(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        await bench.catalog.write(event_configs.put, key("a"), None, EventConfigChange(on_success=TOPIC))
        foreign = key("a")._replace(account="222222222222").arn()
        change = update(tables.event_invoke_configs).values(on_success=foreign)
        await bench.ledger.write(lambda connection: connection.execute(change))
        (one,) = await bench.accept("a")
        (settled,) = await bench.settle((await bench.feed()).fed)
        assert (settled.state, settled.has_consequences) == ("succeeded", True)
        assert await bench.count(tables.events) == 1
        query = select(tables.deliveries)
        (delivery,) = await bench.ledger.read(lambda connection: list(connection.execute(query)))
        assert (delivery.event_id, delivery.target) == ((await bench.row(one)).id, foreign)
        assert json.loads(delivery.attributes) == {REFUSED: "the destination is a function of another account"}

    run(work)


def test_too_old_after_a_try_has_the_response_of_that_try(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        change = EventConfigChange(maximum_age_s=60, maximum_retries=2, on_failure=QUEUE)
        await bench.catalog.write(event_configs.put, key("a"), None, change)
        await bench.accept("a")
        await bench.settle((await bench.feed()).fed, "function_error", result=b'{"errorMessage":"no"}')
        bench.clock.pass_s(61)
        assert [one.condition for one in (await bench.feed()).ended] == ["EventAgeExceeded"]
        (due,) = await bench.ledger.write(deliveries.claim_due, bench.clock.ms, Room(()))
        record = json.loads(due.body)
        assert record["requestContext"]["approximateInvokeCount"] == 1
        assert record["responseContext"] == {
            "statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled",
        }  # fmt: skip
        assert record["responsePayload"] == {"errorMessage": "no"}

    run(work)


@pytest.mark.parametrize("text", ["half \ud800 a character", "a NUL \x00 in it", "\x1b[31mred"])
def test_any_words_of_a_function_can_be_settled(run: Run, text: str) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a", DeadLetterConfig={"TargetArn": QUEUE})
        await bench.catalog.write(event_configs.put, key("a"), None, EventConfigChange(maximum_retries=0))
        (one,) = await bench.accept("a")
        await bench.feed()
        words = storable(text)
        ending = bench.ending(one, 1, "function_error", error_type=words, error_message=words)
        assert [s.state for s in await bench.ledger.settle([ending])] == ["failed"]
        assert text[-5:] in (await bench.row(one)).error_message

    run(work)


def test_any_type_of_an_error_can_be_settled(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        ids = await bench.accept("a", 2)
        await bench.feed()
        # It is indexed, and PostgreSQL's indexes take 2,700 bytes.
        words = "".join(chr(0x4E00 + number * 7 % 20_000) for number in range(8000))
        endings = [bench.ending(ids[0], 1), bench.ending(ids[1], 1, "function_error", error_type=words)]
        assert [s.state for s in await bench.ledger.settle(endings)] == ["succeeded", "queued"]
        assert words.startswith((await bench.row(ids[1])).error_type)

    run(work)


# --- deliveries ---


def test_what_hangs_holds_up_no_other(run: Run) -> None:
    others = [f"{QUEUE}-{number}" for number in range(3)]

    async def work(bench: Bench) -> None:
        for name, target in (("a", QUEUE), ("b", TOPIC), *zip("cde", others, strict=True)):
            await bench.function(name)
            await bench.catalog.write(event_configs.put, key(name), None, EventConfigChange(on_success=target))
            bench.sizes[name] = 20
            await bench.accept(name, 20)
            await bench.settle((await bench.feed()).fed)
            bench.clock.pass_s(1)

        async def take(*under_way: str) -> dict[str, int]:
            due = await bench.ledger.write(deliveries.claim_due, bench.clock.ms, Room(under_way))
            return dict(Counter(one.target for one in due))

        # A target has four at a time, and a service eight.
        assert await take() == {QUEUE: 4, TOPIC: 4, others[0]: 4}
        assert await take(*[QUEUE] * 4, *[others[0]] * 4) == {TOPIC: 4}
        assert await take(*[QUEUE] * 4, *[TOPIC] * 4) == {others[0]: 4}
        # Of those of one service whoever has the fewest under way is first.
        assert await take(*[QUEUE] * 2, *[others[0]] * 3, *[TOPIC] * 3) == {others[1]: 3, TOPIC: 1}
        full = Room([*[QUEUE] * 4, *[others[0]] * 4])
        assert await bench.ledger.read(deliveries.next_due, full) == bench.clock.ms - 4000
        bench.clock.pass_s(-9)
        assert await take() == {}

    run(work)


def test_deliveries_are_tried_until_they_are_given_up(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        await bench.catalog.write(event_configs.put, key("a"), None, EventConfigChange(on_success=QUEUE))
        (one,) = await bench.accept("a")
        await bench.settle((await bench.feed()).fed)
        waits = []
        for tries in range(1, 12):
            (due,) = await bench.ledger.write(deliveries.claim_due, bench.clock.ms, Room(()))
            assert due.tries == tries
            assert await bench.ledger.write(deliveries.claim_due, bench.clock.ms, Room(())) == [], "it has been taken"
            assert not await bench.ledger.write(deliveries.record_failure, due, "down", bench.clock, final=False)
            next_ms = await bench.ledger.read(deliveries.next_due, Room(()))
            assert next_ms is not None
            waits.append((next_ms - bench.clock.ms) / 1000)
            bench.clock.pass_s(waits[-1])
        assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
        assert (await bench.row(one)).state == "succeeded"
        bench.clock.pass_s(21_600)
        (due,) = await bench.ledger.write(deliveries.claim_due, bench.clock.ms, Room(()))
        assert await bench.ledger.write(deliveries.record_failure, due, "still down", bench.clock, final=False)
        row = await bench.row(one)
        assert (row.state, row.error_type) == ("failed", "DestinationDeliveryFailed")
        assert row.error_message == f"{QUEUE}: still down"
        assert await bench.ledger.read(deliveries.next_due, Room(())) is None

    run(work)


def test_one_that_a_dead_dispatcher_had_is_tried_again(run: Run) -> None:
    async def work(bench: Bench) -> None:
        await bench.function("a")
        await bench.catalog.write(event_configs.put, key("a"), None, EventConfigChange(on_success=QUEUE))
        await bench.accept("a")
        await bench.settle((await bench.feed()).fed)
        assert len(await bench.ledger.write(deliveries.claim_due, bench.clock.ms, Room(()))) == 1
        bench.clock.pass_s(59)
        assert await bench.ledger.write(deliveries.claim_due, bench.clock.ms, Room(())) == []
        bench.clock.pass_s(1)
        assert [one.tries for one in await bench.ledger.write(deliveries.claim_due, bench.clock.ms, Room(()))] == [2]

    run(work)


# --- several dispatchers ---


def test_dispatchers_that_feed_at_once_feed_each_event_once(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    most = {"local": 7}

    async def prepare(_target: Target) -> Ready:
        return Ready()

    async def work() -> None:
        catalogs = [await Catalog.open(url, prepare) for _ in range(2)]
        benches = [Bench(catalog) for catalog in catalogs]
        in_flight: set[str] = set()
        largest = 0
        fed: Counter[str] = Counter()

        async def dispatcher(bench: Bench) -> None:
            nonlocal largest
            bench.clock.ms += 10_000  # all that is accepted is due
            while sum(fed.values()) < 400:
                done = await bench.feed(most)
                in_flight.update(one.message for one in done.fed)
                largest = max(largest, len(in_flight))
                fed.update(ids_of(done.fed))
                for message in done.fed:
                    # Before: as soon as the ledger has it the other may feed in its place.
                    in_flight.discard(message.message)
                    await bench.settle([message])

        try:
            for name in "ab":
                await benches[0].function(name)
                benches[0].sizes[name] = benches[1].sizes[name] = 3
                await benches[0].accept(name, 200)
            await asyncio.gather(*(dispatcher(bench) for bench in benches))
            assert set(fed.values()) == {1}
            assert len(fed) == 400
            assert 1 <= largest <= 7
        finally:
            for catalog in catalogs:
                await catalog.close()

    asyncio.run(work())
