"""Containers under faults and under load: workers, dispatcher and Redis killed; two workers that share; limits; leftovers."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.faults.calls import Caller, Load, caller, wait_until_quiet, wait_until_running
from tests.services.docker import image, require_engine, settings_of
from tests.services.stack import Stack
from tests.services.waiting import wait_until
from workers.engine import LABEL_ENVIRONMENT, LABEL_INSTALLATION, LABEL_WORKER, Container, ContainerSpec, Engine

#: What the issue allows; a container ends with its stream, so that most are gone within a second.
GONE_S = 40


@pytest.fixture
def engine() -> Iterator[Engine]:
    found = require_engine()
    yield found
    found.close()


class Docker:
    """A stack in a docker mode, and its containers."""

    def __init__(self, stack: Stack, engine: Engine) -> None:
        self.stack = stack
        self.engine = engine
        self.workers = set(stack.workers())

    def add_worker(self) -> None:
        self.stack.add_worker()
        self.workers |= set(self.stack.workers())

    def containers(self, *, functions: bool = False) -> list[Container]:
        """All of the stack's workers, or those of environments only."""
        self.workers |= set(self.stack.workers()) if self.stack.redis.running else set()
        found = [one for one in self.engine.containers(LABEL_WORKER) if one.labels[LABEL_WORKER] in self.workers]
        return [one for one in found if one.labels[LABEL_ENVIRONMENT]] if functions else found

    def wait_until_none(self, timeout_s: float = GONE_S) -> float:
        """Until no container is there; how long it took."""
        began = time.monotonic()
        wait_until("no container is left", lambda: not self.containers(), timeout_s, every_s=0.2)
        return time.monotonic() - began

    def settled(self) -> bool:
        """Whether the one environment's container is there, and the pool has made all it holds ready: two namespaces."""
        functions, all_ = self.containers(functions=True), self.containers()
        if len(functions) != 1 or any(one.state != "running" for one in all_):
            return False
        joined: str = self.engine.inspect(functions[0].id)["HostConfig"]["NetworkMode"].removeprefix("container:")
        return len([one for one in all_ if not one.labels[LABEL_ENVIRONMENT] and one.id != joined]) == 2

    def environments(self, name: str = "work") -> list[dict[str, Any]]:
        document = json.loads(self.stack.get("/_everwarm/environments")[1])
        return [record for record in document["environments"] if record["function"] == name]


@pytest.fixture
def make_docker(make_stack: Callable[..., Stack], engine: Engine) -> Iterator[Callable[..., Docker]]:
    """``make_docker("stay-open", EVERWARM_CONCURRENCY="4")``; fails when a container is left in the end."""
    made: list[Docker] = []

    def make(kind: str = "stay-open", **environ: str) -> Docker:
        made.append(Docker(make_stack(**settings_of(kind), **environ), engine))
        return made[-1]

    yield make
    for docker in made:
        for part in ("second worker", "worker"):
            if docker.stack.runs(part):
                docker.stack.stop(part)
        docker.wait_until_none(10)


def all_answered(answers: list[Any]) -> None:
    assert answers
    strange = [answer for answer in answers if not (answer.good or answer.refused)]
    assert not strange, strange[:3]


KINDS = ("docker", "stay-open", "docker-exec")


@pytest.mark.parametrize("kind", KINDS)
def test_kill_9_of_a_worker_under_load(make_docker: Callable[..., Docker], kind: str) -> None:
    docker = make_docker(kind)
    docker.add_worker()
    work = caller(docker.stack)
    assert work(n=1).good
    load = Load(work, 4, n=7)
    wait_until("the load runs", lambda: load.good_since(0) >= 8, 30)
    docker.stack.kill9("worker")
    killed = time.monotonic()
    wait_until("the other serves on", lambda: load.good_since(killed) >= 8, 30)
    all_answered(load.stop(40))
    dead = docker.workers - set(docker.stack.workers())
    wait_until(
        "the dead one's containers are gone",
        lambda: not [one for one in docker.containers() if one.labels[LABEL_WORKER] in dead and len(dead) == 1],
        GONE_S,
    )
    wait_until("its heartbeat is gone", lambda: len(docker.stack.workers()) == 1)
    dead = docker.workers - set(docker.stack.workers())
    wait_until(
        "and so are its containers",
        lambda: not [one for one in docker.containers() if one.labels[LABEL_WORKER] in dead],
        GONE_S,
    )
    assert work.wait_until_good(n=9).body["n"] == 9
    wait_until_quiet(docker.stack)


def test_kill_9_of_all_workers_leaves_nothing(make_docker: Callable[..., Docker]) -> None:
    docker = make_docker()
    work = caller(docker.stack)
    call = work.begin(s=25)
    wait_until_running(docker.stack)
    # What is killed between its creation and its start never ends: the pool's next namespaces must be there.
    wait_until("the namespaces in advance are there", docker.settled, 20, every_s=0.1)
    docker.stack.kill9("worker")
    assert docker.wait_until_none() < 10
    answer = call.result(10)
    assert (answer.status, answer.error) == (500, "ServiceException")
    docker.stack.start_part("worker")
    docker.stack.wait_until_ready()
    assert work(n=2).body == {"n": 2, "calls": 1, "pid": work(n=2).body["pid"]}


def test_kill_9_of_the_dispatcher_under_load(make_docker: Callable[..., Docker]) -> None:
    docker = make_docker()
    work = caller(docker.stack)
    assert work(n=1).good
    load = Load(work, 4, n=7)
    wait_until("the load runs", lambda: load.good_since(0) >= 20, 20)
    docker.stack.kill9("dispatcher")
    docker.stack.start_part("dispatcher")
    docker.stack.wait_until_ready()
    back = time.monotonic()
    wait_until("it serves again", lambda: load.good_since(back) >= 20, 20)
    answers = load.stop()
    # A call whose connection broke has its answer in that; every other one has one of ours.
    all_answered([answer for answer in answers if answer.status])
    wait_until_quiet(docker.stack)
    assert len(docker.containers(functions=True)) <= 8


def test_kill_9_of_redis_under_load(make_docker: Callable[..., Docker]) -> None:
    docker = make_docker()
    work = caller(docker.stack)
    assert work(n=1).good
    long_one = work.begin(s=6, n=42)
    wait_until_running(docker.stack)
    load = Load(work, 4, n=7)
    wait_until("the load runs", lambda: load.good_since(0) >= 20, 20)
    before = {one.id for one in docker.containers(functions=True)}
    docker.stack.redis.kill9()
    docker.stack.redis.start()
    back = time.monotonic()
    wait_until("it serves again", lambda: load.good_since(back) >= 20, 10)
    answer = long_one.result(15)
    assert answer.good, answer
    assert answer.body["n"] == 42
    all_answered(load.stop())
    assert before & {one.id for one in docker.containers(functions=True)}, "warm containers were lost with Redis"
    wait_until_quiet(docker.stack)


def test_two_workers_share_their_warm_containers(make_docker: Callable[..., Docker]) -> None:
    """16 calls at a time use 16 environments; the next 16 use them again, whichever worker they reach."""
    docker = make_docker(EVERWARM_CONCURRENCY="10", EVERWARM_MAX_STARTS="4")
    docker.add_worker()
    work = caller(docker.stack)

    def sixteen() -> list[Any]:
        with ThreadPoolExecutor(16) as threads:
            answers = [call.result() for call in [threads.submit(work, s=4, n=n) for n in range(16)]]
        assert all(answer.good for answer in answers), answers
        return answers

    def idle() -> bool:
        found = docker.environments()
        return len(found) == 16 and all(one["state"] == "idle" for one in found)

    first = sixteen()
    assert [answer.body["calls"] for answer in first] == [1] * 16
    wait_until("all are idle", idle)
    assert {one["worker"] for one in docker.environments()} == docker.workers
    names = {one.id for one in docker.containers(functions=True)}
    assert len(names) == 16
    for round_ in (2, 3):
        again = sixteen()
        assert [answer.body["calls"] for answer in again] == [round_] * 16
        wait_until("all are idle again", idle)
    assert {one.id for one in docker.containers(functions=True)} == names


def test_an_idle_one_elsewhere_is_used(make_docker: Callable[..., Docker]) -> None:
    docker = make_docker()
    work = caller(docker.stack)
    assert work(n=1).body["calls"] == 1
    docker.add_worker()
    # Whichever of the two takes the message, there is one warm environment.
    for n in range(2, 22):
        wait_until("it is idle", lambda: [one["state"] for one in docker.environments()] == ["idle"])
        assert work(n=n).body["calls"] == n


def test_idle_ones_expire_and_busy_ones_do_not(make_docker: Callable[..., Docker]) -> None:
    docker = make_docker(LAMBDA_KEEPALIVE_MS="6000")
    work = caller(docker.stack)
    assert work(n=1).good
    began = time.monotonic()
    call = work.begin(s=8, n=2)
    wait_until_running(docker.stack)
    assert call.result(25).body["calls"] == 2, "it expired while it was in use"
    wait_until("it is gone", lambda: not docker.containers(functions=True), 20, every_s=0.05)
    took = time.monotonic() - began
    assert took > 8 + 6 - 0.1, took  # the call, and the limit
    assert docker.environments() == []


def test_leftovers_of_a_dead_worker_are_reaped(make_docker: Callable[..., Docker]) -> None:
    docker = make_docker()
    work = caller(docker.stack)
    assert work(n=1).good
    (one,) = docker.containers(functions=True)
    labels = {**one.labels, LABEL_WORKER: "dead", LABEL_ENVIRONMENT: "0" * 32}
    never_started = docker.engine.create(
        ContainerSpec(image=image("python3.11"), name="everwarm-test-left", command=("/x",), labels=labels)
    )
    own = {**one.labels, LABEL_ENVIRONMENT: "1" * 32}
    unknown = docker.engine.create(
        ContainerSpec(image=image("python3.11"), name="everwarm-test-unknown", command=("/x",), labels=own)
    )
    other = docker.engine.create(
        ContainerSpec(
            image=image("python3.11"), name="everwarm-test-other", command=("/x",),
            labels={**labels, LABEL_INSTALLATION: "another"},
        )
    )  # fmt: skip
    try:
        wait_until("its own unknown one is gone", lambda: docker.engine.state(unknown) is None, 15, every_s=0.2)
        assert docker.engine.state(never_started) is not None, "it was taken for dead at once"
        wait_until(
            "the dead one's is gone", lambda: docker.engine.state(never_started) is None, GONE_S + 5, every_s=0.2
        )
        assert docker.engine.state(other) is not None, "another installation's container was removed"
        assert work(n=2).body["calls"] == 2, "a container in use was removed"
    finally:
        for name in (never_started, unknown, other):
            docker.engine.remove(name)


def test_a_burst_of_cold_starts_queues(make_docker: Callable[..., Docker]) -> None:
    docker = make_docker(EVERWARM_MAX_STARTS="2", EVERWARM_SYNC_QUEUE_WAIT_S="5")
    one, other = caller(docker.stack, "one"), caller(docker.stack, "other")
    calls = [one.begin(s=1, n=n) for n in range(10)] + [other.begin(n=1)]
    assert all(call.result(60).good for call in calls)


def test_the_least_recently_used_one_makes_room(make_docker: Callable[..., Docker]) -> None:
    docker = make_docker(EVERWARM_MAX_ENVIRONMENTS="2")
    works = [caller(docker.stack, f"f{n}") for n in range(3)]
    assert all(work(n=1).good for work in works)
    wait_until("one made room", lambda: len(docker.containers(functions=True)) == 2)
    assert docker.environments("f0") == []
    assert works[2](n=2).body["calls"] == 2


def test_memory_makes_room_too(make_docker: Callable[..., Docker]) -> None:
    docker = make_docker(EVERWARM_MEMORY_BUDGET_MB="600", EVERWARM_SYNC_QUEUE_WAIT_S="2")
    small, large = caller(docker.stack, "small"), caller(docker.stack, "large", memory_mb=512)
    huge = caller(docker.stack, "huge", memory_mb=1024)
    assert small(n=1).good
    assert large(n=1).good
    wait_until("the small one made room", lambda: docker.environments("small") == [])
    never = huge(n=1)
    assert (never.status, never.error) == (500, "ServiceException")
    assert "EVERWARM_MEMORY_BUDGET_MB" in never.message
    running = large.begin(s=10, n=2)
    wait_until_running(docker.stack)
    refused = small(n=3)
    assert (refused.status, refused.error) == (429, "TooManyRequestsException")
    waiting = small.begin(n=4)
    assert running.result(20).good
    assert waiting.result(20).status in (200, 429)
    assert small.wait_until_good(n=5).good


def test_a_fixed_port_is_one_environments(make_docker: Callable[..., Docker]) -> None:
    docker = make_docker(LAMBDA_DOCKER_FLAGS="-p 127.0.0.1:28080:8080", EVERWARM_SYNC_QUEUE_WAIT_S="20")
    assert "each function gets one environment" in docker.stack.log_text()
    work = caller(docker.stack)
    calls = [work.begin(s=0.5, n=n) for n in range(4)]
    answers = [call.result(30) for call in calls]
    assert all(answer.good for answer in answers), answers
    assert sorted(answer.body["calls"] for answer in answers) == [1, 2, 3, 4]


def test_a_function_that_is_removed_by_hand_is_noticed(make_docker: Callable[..., Docker]) -> None:
    docker = make_docker()
    work: Caller = caller(docker.stack)
    assert work(n=1).good
    (one,) = docker.containers(functions=True)
    docker.engine.remove(one.id)
    assert work(n=2).body["calls"] == 1
    wait_until_quiet(docker.stack)
