"""Leases across workers: the real scripts, driven through `Leases` by three workers, against a model of who owns what.

What may go wrong goes wrong: messages are lost, workers are killed and come back, or stop beating only; requests and
answers are lost, scripts run twice; Redis is emptied, or comes back as it was some time ago; keys expire under a worker
that was paused; late owners knock. After each step no environment has two owners and the indexes agree with the records;
and at any time, as at the end, a worker's upkeep finds everything again.

Redis' clock can't be moved: a lease ends, and an environment has been idle for long, when its score says so. And since
hypothesis repeats what it found, nothing may depend on how long a step took: each takes a millisecond at least, and what is
used in the same one is used in the order of its name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.services.redis import RedisServer
from workers.contract import keys
from workers.contract.messages import FunctionSpec
from workers.contract.scripts import leasing, notices
from workers.contract.scripts.call import Call
from workers.environments.leases import Lease, Leases
from workers.intake.mailbox import Move, parse_move, split_message
from workers.redis_client import Store, Unavailable

MODE = "local"
SLOTS = 3
LONG_MS = 600_000
REVISIONS = ("r1", "r2")
MOSTLY_ONE = st.sampled_from(["r1", "r1", "r1", "r2"])
RARELY = st.sampled_from([False, False, False, True])
T = TypeVar("T")


def spec(revision: str) -> FunctionSpec:
    return FunctionSpec(
        account="1", region="r", function="f", version="$LATEST", runtime="python3.11", handler="h", timeout_s=3,
        memory_mb=128, ephemeral_mb=512, environment={}, code_sha256="", revision=revision,
    )  # fmt: skip


class Faulty(Store):
    """A store that has one fault at a time."""

    fault = ""

    def run(self, call: Call[T]) -> T:
        if self.fault == "away":
            raise redis.ConnectionError
        answer = super().run(call)
        if self.fault == "answer lost":
            raise redis.TimeoutError
        # What redis-py does when the answer is lost and it tries again.
        return super().run(call) if self.fault == "run twice" else answer

    @contextmanager
    def with_fault(self, fault: str) -> Iterator[None]:
        self.fault = fault
        try:
            yield
        finally:
            self.fault = ""


FAULTS = st.sampled_from(["", "", "", "", "", "away", "answer lost", "run twice"])


@dataclass
class Place:
    """One environment: the worker's copy of its record, and the attempt that believes to have it."""

    lease: Lease
    token: str = ""


@dataclass
class Worker:
    """One living worker."""

    name: str
    store: Faulty
    leases: Leases
    places: dict[str, Place] = field(default_factory=dict)
    stopping: bool = False
    behind: bool = False
    """Redis was lost in part, and this worker has not renewed since: indexes may lack what the records say."""

    def idle(self) -> list[Place]:
        return [place for place in self.places.values() if not place.token]

    def owned(self) -> list[Place]:
        return [place for place in self.places.values() if place.token]


@dataclass(frozen=True)
class Record:
    """What Redis has."""

    state: str
    owner: str
    generation: int
    worker: str
    last_use: float
    indexes: dict[str, float]
    """Those that have it, with its score."""


class Sharing(RuleBasedStateMachine):
    """Three workers and their environments."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.server = server
        self.client: Any = redis.Redis.from_url(server.url, decode_responses=True)
        self.workers: list[Worker] = []
        self.dead: list[Worker] = []
        self.in_hand: list[tuple[Worker, Move]] = []
        """Messages that were popped and have not been handled yet."""
        self.late: list[tuple[Lease, str, int]] = []
        """Leases that are over: copy, token, generation."""
        self.saved: dict[bytes, tuple[int, bytes]] = {}
        self.count = 0

    # What the rules need

    def number(self) -> int:
        self.count += 1
        return self.count

    def born(self) -> Worker:
        name = f"w{self.number()}"
        store = Faulty(self.server.url)
        return Worker(name, store, Leases(store, name, MODE))

    def beat(self, worker: Worker) -> None:
        description = {"slots": SLOTS, "stopping": int(worker.stopping)}
        worker.store.run(
            notices.heartbeat(worker=worker.name, life_ms=60_000, new_epoch="epoch", description=description)
        )

    def record(self, lease: Lease) -> Record | None:
        return self.records([lease])[lease.environment]

    def records(self, leases: list[Lease]) -> dict[str, Record | None]:
        pipe = self.client.pipeline(transaction=False)
        for lease in leases:
            pipe.hmget(keys.environment(lease.environment), "state", "owner", "generation", "worker", "last_use")
            for name in (lease.keys.leases, lease.keys.idle, lease.keys.warm):
                pipe.zscore(name, lease.environment)
        answers = pipe.execute()
        found: dict[str, Record | None] = {}
        for at, lease in enumerate(leases):
            (state, owner, generation, worker, last_use), *scores = answers[4 * at : 4 * at + 4]
            places = zip(("leases", "idle", "warm"), scores, strict=True)
            indexes = {name: score for name, score in places if score is not None}
            record = None if state is None else Record(state, owner, int(generation), worker, float(last_use), indexes)
            found[lease.environment] = record
        return found

    def pick(self, data: Any, found: list[T]) -> T:
        return data.draw(st.sampled_from(found)) if len(found) > 1 else found[0]

    def worker(self, data: Any, fits: Callable[[Worker], Any] = lambda _: True) -> Worker | None:
        found = [worker for worker in self.workers if fits(worker)]
        return self.pick(data, found) if found else None

    def token(self) -> str:
        return f"i{self.number()}:1"

    def own(self, place: Place, token: str) -> None:
        assert not place.token, "it is leased to two at a time"
        assert place.lease.is_owned
        place.token = token

    # Environments and their own worker

    @initialize()
    def begin(self) -> None:
        self.client.flushall()
        for _ in range(3):
            worker = self.born()
            self.workers.append(worker)
            self.beat(worker)
            for _ in range(2):
                self.start_one(worker, "r1", idle=True)

    @rule(data=st.data(), revision=MOSTLY_ONE, idle=st.booleans())
    def start(self, data: Any, revision: str, idle: bool) -> None:
        worker = self.worker(data, lambda worker: len(worker.places) < 5)
        if worker is not None:
            self.start_one(worker, revision, idle)

    def start_one(self, worker: Worker, revision: str, idle: bool) -> None:
        token = self.token()
        place = Place(Lease(f"e{self.number():04}", spec(revision), MODE, worker.name))
        worker.leases.register(place.lease, "starting", token)
        worker.places[place.lease.environment] = place
        self.own(place, token)
        if idle:
            self.give_back(worker, place, "")

    @rule(data=st.data(), fault=FAULTS)
    def started(self, data: Any, fault: str) -> None:
        worker = self.worker(data, Worker.owned)
        if worker is not None:
            place = self.pick(data, worker.owned())
            with worker.store.with_fault(fault), suppress(*Unavailable):
                worker.leases.register(place.lease, "leased", place.token)

    def _lease(self, data: Any, fault: str) -> None:
        worker = self.worker(data, Worker.idle)
        if worker is None:
            return
        place = self.pick(data, worker.idle())
        before, copy = self.record(place.lease), self.copy(place.lease)
        token = self.token()
        with worker.store.with_fault(fault):
            taken = worker.leases.lease(place.lease, token)
        acquired = before is not None and "@" in before.owner and before.generation > copy.generation
        if taken:
            assert fault in ("away", "answer lost") or not acquired, "somebody else's message is on the way"
            self.own(place, token)
        else:
            assert acquired
            assert (self.record(place.lease), self.copy(place.lease)) == (before, copy), "busy changes nothing"

    lease = rule(data=st.data(), fault=FAULTS)(_lease)
    lease_2 = rule(data=st.data(), fault=FAULTS)(_lease)

    @staticmethod
    def copy(lease: Lease) -> Lease:
        return Lease(
            lease.environment, lease.spec, lease.mode, lease.worker, lease.generation, lease.owner, lease.state,
            lease.unsure,
        )  # fmt: skip

    def _release(self, data: Any, fault: str) -> None:
        worker = self.worker(data, Worker.owned)
        if worker is not None:
            self.give_back(worker, self.pick(data, worker.owned()), fault)

    release = rule(data=st.data(), fault=FAULTS)(_release)
    release_2 = rule(data=st.data(), fault=FAULTS)(_release)

    def give_back(self, worker: Worker, place: Place, fault: str) -> None:
        lease = place.lease
        self.late = [*self.late, (self.copy(lease), lease.owner, lease.generation)][-8:]
        place.token = ""
        with worker.store.with_fault(fault):
            worker.leases.release(lease)
        assert (lease.state, lease.owner) == ("idle", "")

    @rule(data=st.data())
    def a_second_one_asks_for_an_owned_one(self, data: Any) -> None:
        worker = self.worker(data, Worker.owned)
        if worker is None:
            return
        lease = self.pick(data, worker.owned()).lease
        before, copy = self.record(lease), self.copy(lease)
        assert not worker.leases.lease(lease, "another")
        assert not worker.leases.accept(lease, before.owner if before else "x", before.generation if before else 1)
        assert not worker.leases.reclaim(lease)
        assert (self.record(lease), self.copy(lease)) == (before, copy)

    @precondition(lambda self: self.late)
    @rule(data=st.data(), word=st.sampled_from(["release", "retire"]))
    def a_late_owner_does_no_harm(self, data: Any, word: str) -> None:
        lease, token, generation = self.pick(data, self.late)
        before = self.record(lease)
        if before is not None and (before.owner == token or before.generation < generation):
            return  # Redis has missed the release, and takes it for the owner.
        store = Store(self.server.url)
        answer = (
            store.run(leasing.release(lease.keys, owner=token, generation=generation, life_ms=60_000))
            if word == "release"
            else store.run(leasing.retire(lease.keys, owner=token, generation=generation))
        )
        again = before is not None and before.state == "idle" and before.generation == generation
        assert answer == ("gone" if before is None else "idle" if again and word == "release" else "foreign")
        assert self.record(lease) == before

    @rule(data=st.data(), fault=FAULTS)
    def retire_an_idle_one(self, data: Any, fault: str) -> None:
        worker = self.worker(data, Worker.idle)
        if worker is not None:
            self.retire(worker, self.pick(data, worker.idle()), fault)

    def retire(self, worker: Worker, place: Place, fault: str) -> None:
        before = self.record(place.lease)
        with worker.store.with_fault(fault), suppress(*Unavailable):
            answer = worker.leases.retire(place.lease)
            assert (answer == "foreign") == (place.lease.state != "retired")
            if answer != "foreign":
                assert before is None or before.state == "idle", "it was promised"
                del worker.places[place.lease.environment]

    @rule(data=st.data(), fault=FAULTS)
    def an_environment_dies(self, data: Any, fault: str) -> None:
        worker = self.worker(data, lambda worker: worker.places)
        if worker is None:
            return
        place = worker.places.pop(self.pick(data, sorted(worker.places)))
        with worker.store.with_fault(fault), suppress(*Unavailable):
            worker.leases.remove(place.lease)
            assert self.record(place.lease) is None
        worker.leases.restore(place.lease)
        assert fault or self.record(place.lease) is None, "it does not come back"

    # Sharing

    def _acquire(self, data: Any, revision: str, fault: str, silent: bool) -> None:
        worker = self.pick(data, self.workers)
        if not silent:
            for one in self.workers:
                self.beat(one)
        expected = self.to_be_acquired(worker, revision)
        token = self.token()
        with worker.store.with_fault(fault), suppress(*Unavailable):
            found = worker.leases.acquire(revision, token, b"batch \n")
            if not fault:
                self.check_acquired(found, f"{token}@{worker.name}", expected)
        for other in self.workers:
            other.behind |= not self.client.exists(keys.worker(other.name))

    # A rule under several names comes up as often.
    acquire = rule(data=st.data(), revision=MOSTLY_ONE, fault=FAULTS, silent=RARELY)(_acquire)
    acquire_2 = rule(data=st.data(), revision=MOSTLY_ONE, fault=FAULTS, silent=RARELY)(_acquire)
    acquire_3 = rule(data=st.data(), revision=MOSTLY_ONE, fault=FAULTS, silent=RARELY)(_acquire)

    def to_be_acquired(self, asking: Worker, revision: str) -> tuple[str, str, int] | None:
        """The environment that fits, its worker, and the generation it gets."""
        for environment in self.client.zrevrange(keys.warm(MODE, revision), 0, -1):
            state, name, generation = self.client.hmget(keys.environment(environment), "state", "worker", "generation")
            heartbeat = self.client.hgetall(keys.worker(str(name)))
            if (
                state == "idle"
                and name != asking.name
                and heartbeat.get("stopping") == "0"
                and self.client.zcard(keys.leases(name)) < SLOTS
            ):
                return environment, name, int(generation) + 1
        return None

    def check_acquired(self, found: str | None, owner: str, expected: tuple[str, str, int] | None) -> None:
        if expected is None:
            assert found is None
            return
        environment, name, generation = expected
        assert found == name
        kind, body = split_message(self.client.lindex(keys.mailbox(name), -1).encode())
        message = parse_move(body)
        record = self.client.hmget(keys.environment(environment), "state", "owner", "generation")
        assert kind == "move"
        assert record == ["leased", owner, str(generation)]
        assert message == Move(environment, generation, owner, b"batch \n")

    @rule(data=st.data())
    def messages_are_read(self, data: Any) -> None:
        worker = self.worker(data, lambda worker: self.client.exists(keys.mailbox(worker.name)))
        while worker is not None and (element := self.client.lpop(keys.mailbox(worker.name))) is not None:
            self.in_hand.append((worker, parse_move(split_message(element.encode())[1])))

    def _handle_a_message(self, data: Any, fault: str, lost: bool) -> None:
        worker, message = entry = self.pick(data, self.in_hand)
        self.in_hand.remove(entry)
        place = worker.places.get(message.environment)
        if lost or place is None or worker not in self.workers:
            return
        before, copy = self.record(place.lease), self.copy(place.lease)
        told = before is not None and (before.state, before.owner, before.generation) == (
            "leased", message.owner, message.generation,
        )  # fmt: skip
        accepted = False
        with worker.store.with_fault(fault), suppress(*Unavailable):
            accepted = worker.leases.accept(place.lease, message.owner, message.generation)
            assert accepted == (not place.token and (told or before is None))
        if accepted:
            self.own(place, message.owner)
        else:
            assert self.copy(place.lease) == copy

    handle = precondition(lambda self: self.in_hand)(rule(data=st.data(), fault=FAULTS, lost=RARELY)(_handle_a_message))
    handle_2 = precondition(lambda self: self.in_hand)(
        rule(data=st.data(), fault=FAULTS, lost=RARELY)(_handle_a_message)
    )

    # Upkeep

    @rule(data=st.data(), stopping=RARELY)
    def heartbeat(self, data: Any, stopping: bool) -> None:
        worker = self.pick(data, self.workers)
        worker.stopping = stopping
        self.beat(worker)

    @rule(data=st.data(), fault=FAULTS)
    def renew(self, data: Any, fault: str) -> None:
        worker = self.pick(data, self.workers)
        with worker.store.with_fault(fault), suppress(*Unavailable):
            self.renew_all(worker)
            worker.behind = False

    def renew_all(self, worker: Worker) -> None:
        before = self.deadlines(worker)
        missing = worker.leases.renew(place.lease for place in worker.places.values())
        for place in worker.idle():
            name = place.lease.environment
            assert name in missing or before.get(name) in (None, self.deadlines(worker).get(name)), "not its lease"
        unsure = [name for name, place in worker.places.items() if place.lease.unsure]
        for name in sorted({*missing, *unsure}):
            worker.leases.restore(worker.places[name].lease)

    def deadlines(self, worker: Worker) -> dict[str, float]:
        return dict(self.client.zrange(keys.leases(worker.name), 0, -1, withscores=True))

    @rule(data=st.data(), limit=st.sampled_from([LONG_MS, 10**9]), fault=FAULTS)
    def sweep(self, data: Any, limit: int, fault: str) -> None:
        worker = self.pick(data, self.workers)
        with suppress(*Unavailable):
            self.sweep_all(worker, limit, fault)

    def sweep_all(self, worker: Worker, limit: int, fault: str) -> None:
        due = worker.leases.sweep(limit)
        for name in due.idle:
            place = worker.places.get(name)
            if place is not None and place.token:
                assert place.lease.unsure or worker.behind, "it is in use"
            elif place is not None:
                self.retire(worker, place, fault)
        for name in due.expired:
            place = worker.places.get(name)
            if place is not None and not place.token:
                with worker.store.with_fault(fault):
                    assert worker.leases.reclaim(place.lease)

    @rule(data=st.data())
    def reclaiming_too_early(self, data: Any) -> None:
        worker = self.worker(data, Worker.idle)
        if worker is None:
            return
        lease = self.pick(data, worker.idle()).lease
        before = self.record(lease)
        if before is not None and before.indexes.get("leases", 0) > 1:
            assert not worker.leases.reclaim(lease), "its message may still come"
            assert self.record(lease) == before

    @rule(data=st.data())
    def settle(self, data: Any) -> None:
        self.find_everything(self.pick(data, self.workers))

    def find_everything(self, worker: Worker) -> None:
        """After one round of upkeep, and the time of messages that don't come, all is as it should be: none is lost."""
        self.beat(worker)
        self.renew_all(worker)
        worker.behind = False
        for place in worker.idle():
            self.client.zadd(keys.leases(worker.name), {place.lease.environment: 1}, xx=True)
        self.sweep_all(worker, 10**9, "")
        for place in worker.places.values():
            record = self.record(place.lease)
            assert record is not None, "it is lost"
            assert record.generation == place.lease.generation
            assert record.owner == place.token
            if place.token:
                assert record.state in ("starting", "leased")
                assert set(record.indexes) == {"leases"}
            else:
                assert record.state == "idle", "it is lost"
                assert set(record.indexes) == {"idle", "warm"}

    # Time

    @rule(data=st.data())
    def a_lease_ends(self, data: Any) -> None:
        """A message does not come in time; or the worker was paused while it ran."""
        worker = self.worker(data, self.deadlines)
        if worker is not None:
            name = self.pick(data, sorted(self.deadlines(worker)))
            self.client.zadd(keys.leases(worker.name), {name: 1}, xx=True)

    @rule(data=st.data())
    def one_is_idle_for_long(self, data: Any) -> None:
        worker = self.worker(data, Worker.idle)
        if worker is not None:
            lease = self.pick(data, worker.idle()).lease
            name = keys.environment(lease.environment)
            if self.client.exists(name):
                ago = self.number()
                self.client.hset(name, "last_use", ago)
                for index in (keys.idle(worker.name), keys.warm(MODE, lease.spec.revision)):
                    self.client.zadd(index, {lease.environment: ago}, xx=True)

    @rule(data=st.data(), what=st.sampled_from(["leases", "idle", "environments", "warm", "environment", "worker"]))
    def keys_expire(self, data: Any, what: str) -> None:
        """The worker was paused for long."""
        worker = self.pick(data, self.workers)
        names = {
            "leases": [keys.leases(worker.name)],
            "idle": [keys.idle(worker.name)],
            "environments": [keys.environments(worker.name)],
            "worker": [keys.worker(worker.name)],
            "warm": [keys.warm(MODE, revision) for revision in REVISIONS],
            "environment": [keys.environment(name) for name in sorted(worker.places)[:2]],
        }[what]
        self.client.delete(*names, "")
        for other in self.workers if what == "warm" else [worker]:
            other.behind = True

    # Ends

    @rule(data=st.data())
    def a_worker_dies_and_another_comes(self, data: Any) -> None:
        worker = self.pick(data, self.workers)
        self.workers.remove(worker)
        self.client.delete(keys.worker(worker.name))
        self.dead.append(worker)
        another = self.born()
        self.workers.append(another)
        self.beat(another)

    @precondition(lambda self: self.dead)
    @rule()
    def keys_of_the_dead_expire(self) -> None:
        worker = self.dead.pop()
        names = [keys.environment(name) for name in worker.places]
        of_worker = (keys.environments, keys.leases, keys.idle, keys.mailbox)
        self.client.delete(*names, *(key(worker.name) for key in of_worker))

    @rule()
    def redis_is_lost(self) -> None:
        self.client.flushall()

    @rule()
    def redis_is_saved(self) -> None:
        raw: Any = self.server.client
        self.saved = {name: (raw.pttl(name), raw.dump(name)) for name in raw.scan_iter()}

    @precondition(lambda self: self.saved)
    @rule()
    def redis_comes_back_as_it_was_saved(self) -> None:
        raw: Any = self.server.client
        raw.flushall()
        for name, (life_ms, value) in self.saved.items():
            raw.restore(name, max(life_ms, 0), value)
        self.saved = {}
        for worker in self.workers:
            worker.behind = True

    # What holds after each step

    @invariant()
    def copies_say_who_owns(self) -> None:
        for worker in self.workers:
            for place in worker.places.values():
                assert place.lease.is_owned == bool(place.token)
                assert place.lease.owner == place.token

    @invariant()
    def redis_agrees(self) -> None:
        records = self.records([place.lease for worker in self.workers for place in worker.places.values()])
        for worker in self.workers:
            for name, place in worker.places.items():
                record = records[name]
                if record is not None:
                    self.indexes_agree(worker, record)
                    if place.token and not place.lease.unsure and not worker.behind:
                        assert record.state in ("starting", "leased"), "what is owned is not to be had"
                        assert (record.owner, record.generation) == (place.token, place.lease.generation)

    def indexes_agree(self, worker: Worker, record: Record) -> None:
        expected = {"idle", "warm"} if record.state == "idle" else {"leases"}
        assert set(record.indexes) <= expected
        assert worker.behind or set(record.indexes) == expected
        assert record.worker == worker.name
        assert {score for name, score in record.indexes.items() if name != "leases"} <= {record.last_use}

    @invariant()
    def time_passes(self) -> None:
        began = self.now_ms()
        while self.now_ms() == began:
            pass

    def now_ms(self) -> int:
        seconds, micro = self.client.time()
        return int(seconds) * 1000 + int(micro) // 1000

    @invariant()
    def every_key_ends(self) -> None:
        assert not self.server.leaked_keys()

    def teardown(self) -> None:
        for worker in self.workers:
            self.find_everything(worker)
        for worker in [*self.workers, *self.dead]:
            worker.store.client.close()
        self.client.close()


@pytest.mark.timeout(400)  # Some 15 s; but making a failure small takes its time.
def test_workers_that_share_environments_keep_the_invariants(redis_server: RedisServer) -> None:
    class Here(Sharing):
        def __init__(self) -> None:
            super().__init__(redis_server)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
