"""Upkeep and claims of a worker with fake environments: what comes back after Redis was lost, and what is cleared away."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.in_process import InProcessWorker, MakeWorker, in_process_workers, now_ms, see_each_other, spec
from tests.services.redis import RedisServer
from tests.services.waiting import wait_until
from workers.contract import keys
from workers.contract.messages import Invocation
from workers.environments.fake_starter import Script


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may kill."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.close()


def invocation(worker: InProcessWorker, name: str, attempt: int = 1) -> Invocation:
    return Invocation(
        request_id=name, attempt=attempt, lane="sync", invoked_arn="arn", counted_in=keys.concurrency("1", "r"),
        claim_by_ms=now_ms(worker.server) + 10_000, reply_to=keys.replies(name),
    )  # fmt: skip


def test_a_heartbeat_describes_the_worker(worker: InProcessWorker) -> None:
    worker.upkeep.run_once(0.0)
    client: Any = worker.server.client
    found = client.hgetall(keys.worker(worker.name))
    assert (found[b"slots"], found[b"running"], found[b"stopping"]) == (b"4", b"0", b"0")
    assert not worker.keeper.shared


def test_two_workers_know_of_each_other(make_worker: MakeWorker) -> None:
    see_each_other(make_worker(), make_worker())


def test_an_environment_that_idles_too_long_is_retired(make_worker: MakeWorker) -> None:
    worker = make_worker(keepalive_ms=1)
    name = worker.warm_up()

    def retired() -> bool:
        worker.upkeep.run_once(float("inf"))
        return worker.starter.destroyed == [name]

    wait_until("it is retired", retired)
    assert worker.state(name) == ""


def test_an_environment_that_is_used_is_not_retired_however_long_it_runs(make_worker: MakeWorker) -> None:
    worker = make_worker(keepalive_ms=1)
    worker.starter.script = Script(event=())
    call = worker.call()
    relay = worker.wait_for_event()
    worker.upkeep.run_once(float("inf"))
    assert relay.link.state == "busy"
    relay.take_step("answer")
    relay.take_step("ask")
    assert call.outcome().kind == "success"


def test_a_note_of_a_new_revision_retires_the_idle_environments_of_the_old(worker: InProcessWorker) -> None:
    name = worker.warm_up()
    client: Any = worker.server.client
    client.zadd(keys.SUPERSEDED, {"000000000000:us-east-1:f:$LATEST=r2": now_ms(worker.server)})
    client.pexpire(keys.SUPERSEDED, keys.SUPERSEDED_MS)
    worker.upkeep.run_once(0.0)
    assert worker.starter.destroyed == [name]


def test_after_a_loss_of_redis_everything_is_registered_again(mortal: RedisServer) -> None:
    with in_process_workers(mortal) as make:
        worker = make()
        worker.upkeep.run_once(0.0)
        idle = worker.warm_up()
        worker.starter.script = Script(event=())
        worker.relay(idle).script = Script(event=())
        call = worker.call()
        wait_until("it runs", lambda: worker.relay(idle).link.state == "busy")
        mortal.restart()
        assert worker.state(idle) == ""
        worker.upkeep.run_once(0.0)
        assert worker.state(idle) == "leased"
        assert mortal.client.exists(keys.invocation(call.invocation.request_id))
        worker.relay(idle).take_step("answer")
        worker.relay(idle).take_step("ask")
        assert call.outcome().kind == "success"
        call.wait()
        assert worker.state(idle) == "idle"
        assert mortal.client.zscore(keys.idle(worker.name), idle) is not None


def test_while_redis_is_away_upkeep_waits_and_warm_environments_stay(mortal: RedisServer) -> None:
    with in_process_workers(mortal) as make:
        worker = make()
        worker.upkeep.run_once(0.0)
        name = worker.warm_up()
        mortal.kill9()
        worker.upkeep.run_once(0.0)
        mortal.start()
        worker.upkeep.run_once(0.0)
        assert worker.state(name) == "idle"
        assert worker.warm_up() == name


# Claims


def test_one_attempt_is_claimed_by_one_worker_and_may_be_asked_for_again(make_worker: MakeWorker) -> None:
    one, other = make_worker(), make_worker()
    found = invocation(one, "i1")
    assert one.claims.reserve(found, "e1") not in ("void", "late", "taken")
    assert other.claims.reserve(found, "e2") == "taken"
    assert one.claims.run(spec(), found, "e1") == "run"
    assert one.claims.run(spec(), found, "e1") == "run"
    assert other.claims.run(spec(), found, "e2") == "taken"


def test_an_older_attempt_is_late(worker: InProcessWorker) -> None:
    assert worker.claims.run(spec(), invocation(worker, "i1", 2), "e1") == "run"
    assert worker.claims.run(spec(), invocation(worker, "i1", 1), "e1") == "late"
