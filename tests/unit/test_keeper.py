"""The keeper of environments, with fake ones: who gets which, what comes of those that die, and that nothing is left."""

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.services.in_process import InProcessWorker, MakeWorker, see_each_other, spec
from tests.services.waiting import wait_until
from workers.environments.budget import Budget
from workers.environments.environment import Environment
from workers.environments.fake_starter import Script
from workers.environments.keeper import Moved, NoRoom
from workers.environments.starter import StartError, Stopping
from workers.link.answers import Started


@contextmanager
def leased(worker: InProcessWorker, **members: Any) -> Iterator[Environment]:
    """An environment whose runtime has started, leased for the block."""
    with worker.keeper.lease(worker.environment_request(**members)) as environment:
        if not environment.started:
            assert isinstance(environment.wait_started(5), Started)
            worker.keeper.mark_started(environment)
        environment.give_back_by = float("inf")
        yield environment


# Which environment a request gets


def test_the_first_request_starts_an_environment_and_the_next_gets_the_same(worker: InProcessWorker) -> None:
    with leased(worker) as first:
        assert worker.state(first.id) == "leased"
    assert worker.state(first.id) == "idle"
    with leased(worker) as second:
        assert second is first
    assert worker.starter.started == [first.id]


def test_two_at_a_time_get_two_and_the_most_recently_used_is_chosen_next(worker: InProcessWorker) -> None:
    with leased(worker) as first, leased(worker) as second:
        assert second is not first
    with leased(worker) as third:
        assert third is first, "the one that was handed back last"


def test_a_new_revision_retires_the_idle_environments_of_the_old(worker: InProcessWorker) -> None:
    with leased(worker) as old:
        pass
    with leased(worker, spec=spec(revision="r2")) as new:
        assert new is not old
        assert worker.starter.destroyed == [old.id]
        assert worker.state(old.id) == ""


def test_an_environment_whose_revision_was_superseded_meanwhile_is_not_kept(worker: InProcessWorker) -> None:
    with leased(worker) as old, leased(worker, spec=spec(revision="r2")):
        pass
    assert worker.starter.destroyed == [old.id]


def test_edited_code_gets_a_fresh_environment(worker: InProcessWorker) -> None:
    with leased(worker) as before:
        pass
    worker.code_version += 1
    with leased(worker) as after:
        assert after is not before
    assert worker.starter.destroyed == [before.id]


def test_the_id_is_told_before_anything_is_started(worker: InProcessWorker) -> None:
    def refuse(name: str) -> None:
        assert not worker.starter.started
        raise LookupError(name)

    with pytest.raises(LookupError) as refused, leased(worker, reserve=refuse):
        pytest.fail("it must not be leased")
    assert not worker.keeper.knows(str(refused.value))


# Handing back


def test_a_request_waits_for_an_environment_that_is_about_to_be_handed_back(make_worker: MakeWorker) -> None:
    worker = make_worker(hand_back_s=5.0)
    with leased(worker) as first:
        pass
    leaving, left = threading.Event(), threading.Event()

    def answer() -> None:
        with leased(worker) as environment:
            worker.keeper.mark_answered(environment)
            leaving.set()
            left.wait(5)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(answer)
        leaving.wait(5)
        threading.Timer(0.05, left.set).start()
        with leased(worker) as second:
            assert second is first
        done.result(5)
    assert worker.starter.started == [first.id]


def test_a_request_waits_no_longer_than_that_takes(make_worker: MakeWorker) -> None:
    worker = make_worker(hand_back_s=0.01)
    with leased(worker) as slow:
        worker.keeper.mark_answered(slow)
        with leased(worker) as other:
            assert other is not slow


def test_an_environment_that_does_not_come_back_in_time_is_killed(worker: InProcessWorker) -> None:
    worker.starter.script = Script(event=("answer",))
    call = worker.call(of=spec(timeout_s=1))
    assert call.outcome().kind == "success"
    call.wait()
    assert worker.starter.destroyed == worker.starter.started


@pytest.mark.parametrize("keepalive_ms", [0])
def test_nothing_is_kept_where_nothing_may_idle(make_worker: MakeWorker, keepalive_ms: int) -> None:
    worker = make_worker(keepalive_ms=keepalive_ms)
    with leased(worker) as first:
        pass
    assert worker.starter.destroyed == [first.id]


def test_an_error_in_the_block_retires_the_environment(worker: InProcessWorker) -> None:
    with pytest.raises(RuntimeError, match="as told"), leased(worker) as environment:
        raise RuntimeError("as told")
    assert worker.starter.destroyed == [environment.id]
    assert worker.state(environment.id) == ""


def test_many_threads_never_share_an_environment(make_worker: MakeWorker) -> None:
    worker = make_worker(budget=Budget(environments=3, memory_mb=10_000, starts=3))
    busy: set[str] = set()
    lock = threading.Lock()

    def use() -> None:
        for _ in range(5):
            with leased(worker) as environment:
                with lock:
                    assert environment.id not in busy
                    busy.add(environment.id)
                worker.keeper.mark_answered(environment)
                with lock:
                    busy.remove(environment.id)

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(use) for _ in range(6)]:
            done.result(30)
    assert len(worker.starter.relays) <= 3


# Death, in every state


def test_one_that_can_not_be_started_leaves_nothing(worker: InProcessWorker) -> None:
    def fail(_: Environment) -> None:
        raise StartError("no such thing")

    worker.starter.on_start = fail
    seen: list[str] = []
    with pytest.raises(StartError, match="no such thing"), leased(worker, reserve=seen.append):
        pytest.fail("it must not be leased")
    assert worker.state(seen[0]) == ""
    assert not worker.keeper.knows(seen[0])


def test_one_that_dies_while_it_is_idle_is_swept_away(worker: InProcessWorker) -> None:
    with leased(worker) as environment:
        pass
    worker.relay(environment.id).take_step("die")
    assert environment.gone.wait(5)
    assert wait_until("it is swept away", lambda: worker.keeper.sweep(600_000)) == 1
    assert worker.starter.destroyed == [environment.id]
    assert worker.state(environment.id) == ""


def test_one_that_died_while_it_was_idle_is_not_handed_out(worker: InProcessWorker) -> None:
    with leased(worker) as dead:
        pass
    worker.relay(dead.id).take_step("die")
    assert dead.gone.wait(5)
    with leased(worker) as alive:
        assert alive is not dead


def test_one_that_dies_while_it_is_leased_is_not_kept(worker: InProcessWorker) -> None:
    with leased(worker) as environment:
        worker.relay(environment.id).take_step("die")
        assert environment.gone.wait(5)
    assert worker.starter.destroyed == [environment.id]


def test_one_that_dies_between_its_answer_and_the_next_event_frees_who_waits_for_it(make_worker: MakeWorker) -> None:
    worker = make_worker(hand_back_s=5.0)
    worker.starter.script = Script(event=("answer", 0.05, "die"))
    first = worker.call()
    assert first.outcome().kind == "success"
    worker.starter.script = Script()
    second = worker.call()
    assert second.outcome().kind == "success"
    first.wait()
    second.wait()
    assert len(worker.starter.started) == 2


def test_one_that_dies_while_it_is_leased_remotely_lets_the_moved_invocation_start_another(
    make_worker: MakeWorker,
) -> None:
    here, there = make_worker(), make_worker()
    name = there.warm_up()
    see_each_other(here, there)
    call = here.call()
    call.wait()  # moved
    there.relay(name).take_step("die")
    wait_until("it has died", lambda: there.relay(name).link.state == "ended")
    assert there.read_mailbox() == 1
    outcome = call.outcome()
    assert (outcome.kind, outcome.worker) == ("success", there.name)
    assert outcome.environment != name


# Room


def test_the_least_recently_used_idle_environment_makes_room(make_worker: MakeWorker) -> None:
    worker = make_worker(budget=Budget(environments=2, memory_mb=10_000, starts=2))
    old, young = worker.warm_up(of=spec("old")), worker.warm_up(of=spec("young"))
    with leased(worker, spec=spec("next")):
        assert worker.starter.destroyed == [old]
        assert worker.state(young) == "idle"


def test_without_room_a_request_waits_until_one_becomes_idle(make_worker: MakeWorker) -> None:
    worker = make_worker(budget=Budget(environments=1, memory_mb=10_000, starts=1), hand_back_s=0.0)
    with ThreadPoolExecutor(1) as pool:
        with leased(worker) as first:
            done = pool.submit(worker.warm_up)
        assert done.result(5) == first.id
    assert worker.starter.started == [first.id]


def test_without_room_a_request_waits_until_one_has_ended(make_worker: MakeWorker) -> None:
    worker = make_worker(budget=Budget(environments=1, memory_mb=10_000, starts=1))
    with leased(worker) as first, ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: worker.warm_up(of=spec("other")))
        worker.keeper.retire(first)
        assert done.result(5) != first.id


def test_without_room_until_the_time_is_over_nobody_began_it(make_worker: MakeWorker) -> None:
    worker = make_worker(budget=Budget(environments=1, memory_mb=10_000, starts=1))
    with leased(worker):
        overdue = dataclasses.replace(worker.environment_request(spec=spec("other")), claim_by_ms=0)
        with pytest.raises(NoRoom), worker.keeper.lease(overdue):
            pytest.fail("there is no room")


def test_what_can_never_fit_is_refused_at_once(make_worker: MakeWorker) -> None:
    worker = make_worker(budget=Budget(environments=1, memory_mb=128, starts=1))
    with pytest.raises(StartError, match="wants 256 MB"), leased(worker, spec=spec(memory_mb=256)):
        pytest.fail("it does not fit")


# Other workers


def test_an_idle_environment_of_another_worker_has_the_invocation_moved_to_it(make_worker: MakeWorker) -> None:
    here, there = make_worker(), make_worker()
    name = there.warm_up()
    see_each_other(here, there)
    with pytest.raises(Moved) as moved, leased(here, message=lambda: b"batch"):
        pytest.fail("it is moved")
    assert moved.value.worker == there.name
    assert there.state(name) == "leased"


def test_an_own_idle_environment_that_another_worker_has_just_leased_is_left_to_it(make_worker: MakeWorker) -> None:
    here, there = make_worker(), make_worker()
    name = there.warm_up()
    see_each_other(here, there)
    with pytest.raises(Moved), leased(here, message=lambda: b"batch"):
        pytest.fail("it is moved")
    with leased(there) as other:
        assert other.id != name, "it waits for the moved invocation"
    assert there.relay(name).link.state == "idle"


def test_a_lease_whose_invocation_never_arrives_is_taken_back(make_worker: MakeWorker) -> None:
    here, there = make_worker(move_ms=1), make_worker()
    name = there.warm_up()
    see_each_other(here, there)
    with pytest.raises(Moved), leased(here, message=lambda: b"batch"):
        pytest.fail("it is moved")
    with leased(there) as other:
        assert other.id != name
    there.keeper.retire(other)

    def taken_back() -> bool:
        there.keeper.sweep(600_000)
        return there.state(name) == "idle"

    wait_until("it is idle again", taken_back)
    with leased(there) as again:
        assert again.id == name


def test_one_that_is_leased_remotely_is_not_retired_before_its_invocation_has_run(make_worker: MakeWorker) -> None:
    here, there = make_worker(), make_worker()
    name = there.warm_up()
    see_each_other(here, there)
    call = here.call()
    call.wait()
    assert there.keeper.sweep(-1_000_000) == 0
    there.keeper.supersede("000000000000:us-east-1:f:*=r2")
    assert there.starter.destroyed == []
    assert there.read_mailbox() == 1
    assert call.outcome().environment == name


def test_a_moved_invocation_whose_lease_has_ended_runs_like_any_other(make_worker: MakeWorker) -> None:
    here, there = make_worker(move_ms=1), make_worker()
    there.warm_up()
    see_each_other(here, there)
    call = here.call()
    call.wait()
    busy = threading.Event()
    with leased(there):
        busy.set()
        assert there.read_mailbox() == 1
        assert call.outcome().kind == "success"


# The end


def test_stopped_in_mid_start_nothing_is_left(worker: InProcessWorker) -> None:
    starting, go_on = threading.Event(), threading.Event()

    def wait(_: Environment) -> None:
        starting.set()
        assert go_on.wait(5)

    worker.starter.on_start = wait
    request = worker.environment_request()

    def lease() -> None:
        with worker.keeper.lease(request):
            pytest.fail("the worker stops")

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lease)
        assert starting.wait(5)
        worker.keeper.interrupt_all()
        go_on.set()
        with pytest.raises(Stopping):
            done.result(5)
    assert worker.starter.destroyed == worker.starter.started
    assert len(worker.starter.started) == 1


def test_aborting_what_is_being_started_tells_that_there_is_one(worker: InProcessWorker) -> None:
    worker.starter.script = Script(start=())
    request = worker.environment_request()
    with worker.keeper.lease(request) as environment:
        assert worker.keeper.abort_starting(request.owner)
        assert not worker.keeper.abort_starting("somebody else:1")
        assert environment.gone.wait(5)
    assert worker.starter.destroyed == [environment.id]


def test_a_worker_that_stops_starts_nothing_any_more(worker: InProcessWorker) -> None:
    worker.keeper.interrupt_all()
    with pytest.raises(Stopping), leased(worker):
        pytest.fail("it is too late")


def test_a_process_for_each_invocation_in_one_environment(make_worker: MakeWorker) -> None:
    worker = make_worker(process="per invocation")
    name = worker.warm_up()
    first = worker.relay(name)
    assert worker.warm_up() == name
    assert worker.relay(name) is not first
    assert first.link.state == "ended"
    assert worker.starter.started == [name]


def test_an_environment_for_each_invocation(make_worker: MakeWorker) -> None:
    worker = make_worker(process="single use")
    names = [worker.warm_up() for _ in range(2)]
    assert worker.starter.destroyed == names
    assert len(set(names)) == 2
