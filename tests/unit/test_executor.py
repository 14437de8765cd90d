"""The executor, on fake environments: every invocation gets exactly one answer, whatever happens to what runs it."""

import threading
from typing import Any

import pytest

from tests.services.in_process import InProcessWorker, MakeWorker, see_each_other, spec
from tests.services.redis import RedisServer
from tests.services.waiting import wait_until
from workers.contract import keys
from workers.contract.messages import VERSION, Batch
from workers.environments.budget import Budget
from workers.environments.environment import Environment
from workers.environments.fake_starter import Script, Step
from workers.environments.starter import FunctionFault, StartError


def concurrency(server: RedisServer) -> int:
    return int(server.client.zcard(keys.concurrency("000000000000", "us-east-1")))


def follow(worker: InProcessWorker, *scripts: Script) -> None:
    """The first environment follows the first script, and so on."""
    left = list(scripts)

    def on_start(_: Environment) -> None:
        worker.starter.script = left.pop(0)

    worker.starter.on_start = on_start


# What is answered


def test_an_invocation_is_answered_with_what_the_runtime_says(worker: InProcessWorker) -> None:
    worker.starter.script = Script(event=(b"hello\n", "answer", "ask"))
    outcome = worker.call(b'{"a":1}').outcome()
    assert (outcome.kind, outcome.payload, outcome.worker) == ("success", b'{"a":1}', worker.name)
    assert outcome.init_ms == 1.0
    first, *rest = outcome.log_tail.decode().splitlines()
    assert first == f"START RequestId: {outcome.request_id} Version: $LATEST"
    assert rest[0] == "hello"
    assert worker.call().outcome().init_ms == 0.0


def test_large_payloads_go_through_again_and_again(worker: InProcessWorker) -> None:
    payload = b'"' + b"x" * 700_000 + b'"'
    for _ in range(4):
        assert worker.call(payload).outcome().payload == payload
    assert len(worker.starter.started) == 1


def test_an_error_of_the_function_is_its_outcome(worker: InProcessWorker) -> None:
    worker.starter.script = Script(event=("fail", "ask"))
    outcome = worker.call().outcome()
    assert (outcome.kind, outcome.error_type) == ("function_error", "Fake.Error")


def test_a_batch_runs_in_series_on_one_environment(worker: InProcessWorker) -> None:
    calls = worker.call_all(b"1", b"2", b"3", batch="m1")
    outcomes = [call.outcome() for call in calls]
    assert [outcome.payload for outcome in outcomes] == [b"1", b"2", b"3"]
    assert len({outcome.environment for outcome in outcomes}) == 1
    calls[0].wait()
    assert not worker.server.client.exists(keys.message("m1"))


def test_a_batch_goes_on_in_another_environment_when_the_first_dies(worker: InProcessWorker) -> None:
    follow(worker, Script(event=("die",)), Script())
    first, second = worker.call_all(b"1", b"2", batch="m1")
    assert first.outcome().error_type == "Runtime.ExitError"
    assert second.outcome().payload == b"2"
    assert len(worker.starter.started) == 2


@pytest.mark.parametrize(
    ("script", "kind", "error_type"),
    [
        (Script(start=("die",)), "function_error", "Runtime.ExitError"),
        (Script(start=("fail", "die")), "function_error", "Fake.Error"),
        (Script(start=("break",)), "system_error", "ServiceException"),
        (Script(event=("die",)), "function_error", "Runtime.ExitError"),
        (Script(event=("break",)), "system_error", "ServiceException"),
        (Script(event=("answer", "die")), "success", ""),
        (Script(event=("answer", "break")), "success", ""),
        (Script(event=("answer", "ask", "die")), "success", ""),
    ],
)
def test_a_death_at_any_time_has_one_answer_and_the_next_call_is_served(
    worker: InProcessWorker, script: Script, kind: str, error_type: str
) -> None:
    worker.starter.script = script
    call = worker.call()
    outcome = call.outcome()
    assert (outcome.kind, outcome.error_type) == (kind, error_type)
    call.wait()
    assert not call.answered
    wait_until("it is dead", lambda: all(one.link.state == "ended" for one in list(worker.starter.relays.values())))
    worker.starter.script = Script()
    after = worker.call()
    assert after.outcome().kind == "success"
    after.wait()
    assert concurrency(worker.server) == 0
    assert len(worker.attempts) == 0


def test_what_hangs_is_ended_by_the_functions_timeout(worker: InProcessWorker) -> None:
    worker.starter.script = Script(event=())
    call = worker.call(of=spec(timeout_s=1))
    outcome = call.outcome()
    assert (outcome.kind, outcome.error_type, outcome.duration_ms) == ("function_error", "Sandbox.Timedout", 1000.0)
    call.wait()
    assert worker.starter.destroyed == [outcome.environment]


def test_an_initialisation_that_takes_too_long_runs_once_more_within_the_timeout(make_worker: MakeWorker) -> None:
    worker = make_worker(init_timeout_s=0.2)
    worker.starter.script = Script(start=())
    call = worker.call(of=spec(timeout_s=1))
    outcome = call.outcome()
    assert (outcome.kind, outcome.error_type) == ("function_error", "Sandbox.Timedout")
    assert len(worker.starter.started) == 2


def test_an_initialisation_that_is_quick_the_second_time_is_followed_by_the_invocation(make_worker: MakeWorker) -> None:
    worker = make_worker(init_timeout_s=0.2)
    follow(worker, Script(start=()), Script())
    assert worker.call().outcome().kind == "success"
    assert len(worker.starter.started) == 2


@pytest.mark.parametrize(
    ("error", "kind", "error_type"),
    [
        (StartError("no code", "InvalidParameterValueException"), "system_error", "InvalidParameterValueException"),
        (FunctionFault("no handler", "Runtime.InvalidEntrypoint"), "function_error", "Runtime.InvalidEntrypoint"),
        (RuntimeError("a bug"), "system_error", "ServiceException"),
    ],
)
def test_what_can_not_be_started_is_an_answer_as_well(
    worker: InProcessWorker, error: Exception, kind: str, error_type: str
) -> None:
    def fail(_: Environment) -> None:
        raise error

    worker.starter.on_start = fail
    call = worker.call()
    outcome = call.outcome()
    assert (outcome.kind, outcome.error_type) == (kind, error_type)
    call.wait()
    assert concurrency(worker.server) == 0


# Who answers


def test_an_invocation_that_came_twice_runs_once(make_worker: MakeWorker) -> None:
    one, other = make_worker(), make_worker()
    call = one.call()
    assert call.outcome().kind == "success"
    call.wait()
    other.executor.run_batch(Batch(v=VERSION, spec=spec(), invocations=[call.invocation]))
    assert not call.answered
    assert not other.starter.started


def test_what_is_late_is_not_begun(worker: InProcessWorker) -> None:
    call = worker.call(wait_ms=-1)
    call.wait()
    assert not call.answered
    assert worker.starter.started == []


def test_what_finds_no_room_in_time_is_not_begun(make_worker: MakeWorker) -> None:
    worker = make_worker(budget=Budget(environments=1, memory_mb=1024, starts=1))
    worker.starter.script = Script(event=())
    busy = worker.call()
    worker.wait_for_event()
    late = worker.call(of=spec("other"), wait_ms=100)
    late.wait()
    assert not late.answered
    worker.only_relay().take_step("answer")
    worker.only_relay().take_step("ask")
    assert busy.outcome().kind == "success"


def test_an_answer_is_out_before_the_environment_is_handed_back(worker: InProcessWorker) -> None:
    worker.starter.script = Script(event=("answer",))
    call = worker.call()
    assert call.outcome().kind == "success"
    assert not call.done.done()
    worker.only_relay().take_step("ask")
    call.wait()
    assert worker.state(worker.starter.started[0]) == "idle"


def test_a_caller_who_is_back_at_once_gets_the_environment_that_is_about_to_be_handed_back(
    make_worker: MakeWorker,
) -> None:
    worker = make_worker(hand_back_s=5.0)
    worker.starter.script = Script(event=("answer", 0.02, "ask"))
    names = set()
    for _ in range(5):
        names.add(worker.call().outcome().environment)
    assert len(names) == 1


def test_moved_work_is_answered_by_the_worker_that_had_the_idle_environment(make_worker: MakeWorker) -> None:
    here, there = make_worker(), make_worker()
    name = there.warm_up()
    see_each_other(here, there)
    calls = here.call_all(b"1", b"2", batch="m1")
    calls[0].wait()
    assert here.server.client.get(keys.message("m1")) == there.name.encode()
    assert there.read_mailbox() == 1
    for call, payload in zip(calls, (b"1", b"2"), strict=True):
        outcome = call.outcome()
        assert (outcome.worker, outcome.environment, outcome.payload) == (there.name, name, payload)
    assert here.starter.started == []
    wait_until("its environment is idle again", lambda: there.state(name) == "idle")
    wait_until("nobody has the batch", lambda: not here.server.client.exists(keys.message("m1")))


def test_moved_work_that_arrives_twice_runs_once(make_worker: MakeWorker) -> None:
    here, there = make_worker(), make_worker()
    there.warm_up()
    see_each_other(here, there)
    call = here.call()
    call.wait()
    mailbox = keys.mailbox(there.name)
    (message,) = here.server.client.lrange(mailbox, 0, -1)
    here.server.client.rpush(mailbox, message)
    assert there.read_mailbox() == 2
    assert call.outcome().kind == "success"
    there.requests.close()  # waits for both
    assert not call.answered


# How it ends


@pytest.mark.parametrize("script", [Script(start=()), Script(event=())])
def test_a_worker_that_stops_answers_what_runs(worker: InProcessWorker, script: Script) -> None:
    worker.starter.script = script
    call = worker.call()
    worker.only_relay()
    wait_until("it is about to end", lambda: worker.only_relay().link.state in ("starting", "busy"))
    if not script.event:
        worker.wait_for_event()
    worker.stop_at_once()
    outcome = call.outcome()
    assert (outcome.kind, outcome.error_type) == ("system_error", "ServiceException")
    assert "stop" in outcome.message


def test_events_go_back_as_they_are_when_the_worker_stops(worker: InProcessWorker) -> None:
    worker.starter.script = Script(event=())
    calls = worker.call_all(b"1", b"2", batch="m1")
    worker.wait_for_event()
    worker.stop_at_once()
    assert [call.outcome().kind for call in calls] == ["interrupted", "interrupted"]


def test_a_stop_in_mid_start_is_an_answer(worker: InProcessWorker) -> None:
    starting, go_on = threading.Event(), threading.Event()

    def wait(_: Environment) -> None:
        starting.set()
        assert go_on.wait(5)

    worker.starter.on_start = wait
    call = worker.call()
    assert starting.wait(5)
    worker.stop_at_once()
    go_on.set()
    assert call.outcome().message == "this worker is stopping"
    call.wait()
    assert worker.starter.destroyed == worker.starter.started


@pytest.mark.parametrize("state", ["starting", "running"])
def test_a_cancelled_attempt_ends(worker: InProcessWorker, state: str) -> None:
    worker.starter.script = Script(start=()) if state == "starting" else Script(event=())
    (call,) = worker.call_all(b"1", batch="m1")
    relay = worker.only_relay() if state == "starting" else worker.wait_for_event()
    wait_until("its link has begun", lambda: relay.link.state != "new")
    worker.requests.handlers["cancel"](f"{call.invocation.request_id} 1".encode())
    outcome = call.outcome()
    assert (outcome.kind, outcome.error_type) == ("function_error", "Runtime.ExitError")
    call.wait()


@pytest.mark.parametrize("steps", [("answer", "ask"), ("die",)])
def test_the_log_of_what_runs_is_in_redis(worker: InProcessWorker, steps: tuple[Step, ...]) -> None:
    worker.starter.script = Script(event=(b"written\n", *steps))
    worker.call().outcome()
    stream = keys.log("000000000000", "us-east-1", "f")

    client: Any = worker.server.client
    wait_until(
        "it is shipped", lambda: b"written\n" in b"".join(b"".join(one.values()) for _, one in client.xrange(stream))
    )
