"""The worker killed, stopped and frozen while it runs an invocation."""

import os
import signal
import time
from collections.abc import Callable

from tests.faults.calls import (
    caller,
    environment_processes,
    run_directory,
    starts,
    wait_until_quiet,
    wait_until_running,
)
from tests.services.processes import wait_until_gone
from tests.services.stack import Stack
from tests.services.waiting import wait_until
from workers.contract import keys


def test_kill_9_during_an_invocation(own_stack: Stack) -> None:
    work = caller(own_stack)
    assert work(n=1).body["n"] == 1
    call = work.begin(s=25)
    wait_until_running(own_stack)
    environments = environment_processes(own_stack)
    assert environments
    directory = run_directory(own_stack.pid("worker"))
    killed = time.monotonic()
    own_stack.kill9("worker")
    wait_until_gone(environments, 10)
    answer = call.result(20)
    assert answer.status == 500
    assert answer.error == "ServiceException"
    assert "died" in answer.message
    assert time.monotonic() - killed < 20

    own_stack.start_part("worker")
    own_stack.wait_until_ready()
    assert work(n=2).body["n"] == 2
    assert not directory.exists(), "the next worker did not remove what the dead one left"


def test_kill_9_while_idle(own_stack: Stack) -> None:
    work = caller(own_stack)
    assert work(n=1).good
    environments = environment_processes(own_stack)
    own_stack.kill9("worker")
    wait_until_gone(environments, 10)
    own_stack.start_part("worker")
    assert work.wait_until_good(n=2).body["calls"] == 1


def test_a_call_that_nobody_takes_is_throttled(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(EVERWARM_SYNC_QUEUE_WAIT_S="2")
    work = caller(stack)
    assert work(n=1).good
    own = stack.pid("worker")
    os.kill(own, signal.SIGSTOP)
    answer = work(n=2)  # the frozen worker's heartbeat still lasts
    assert (answer.status, answer.error) == (429, "TooManyRequestsException")
    assert answer.took_s < 6
    os.kill(own, signal.SIGCONT)
    assert work.wait_until_good(n=3).body["n"] == 3
    wait_until_quiet(stack)
    wait_until("the log is stored", lambda: starts(stack, "work") >= 2)
    assert starts(stack, "work") == 2, "the voided call ran"


def test_frozen_past_its_heartbeat(own_stack: Stack) -> None:
    work = caller(own_stack)
    assert work(n=1).good
    call = work.begin(s=4, n=2)
    wait_until_running(own_stack)
    worker = own_stack.pid("worker")
    os.kill(worker, signal.SIGSTOP)
    try:
        answer = call.result(10)
        assert answer.status == 500
        assert work(n=3).status == 503, "no living worker serves the mode"
    finally:
        os.kill(worker, signal.SIGCONT)
    # Its late outcome is nobody's any more.
    assert work.wait_until_good(n=4).body["n"] == 4
    client = own_stack.redis.client
    wait_until(
        "all records are done",
        lambda: {client.hget(key.decode(), "state") for key in client.scan_iter(keys.invocation("*"))} == {b"done"},
    )
    assert all(work(n=n).body["n"] == n for n in range(5, 8))
    assert "Traceback" not in own_stack.log_text()


def test_sigterm_waits_for_what_runs(own_stack: Stack) -> None:
    work = caller(own_stack)
    directory = run_directory(own_stack.pid("worker"))
    call = work.begin(s=2, n=1)
    wait_until_running(own_stack)
    own_stack.stop("worker")
    answer = call.result(1)
    assert answer.good, answer
    assert not directory.exists()
    assert not environment_processes(own_stack)


def test_sigterm_interrupts_what_runs_for_too_long(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(EVERWARM_DRAIN_S="1")
    work = caller(stack)
    call = work.begin(s=25, n=1)
    wait_until_running(stack)
    began = time.monotonic()
    stack.stop("worker", 8)
    assert 0.9 < time.monotonic() - began < 6
    answer = call.result(2)
    assert answer.status in (500, 503)
    assert "interrupted" in answer.message
    assert not environment_processes(stack)


def test_a_stopping_worker_takes_nothing_more(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(EVERWARM_DRAIN_S="20")
    work = caller(stack)
    running = work.begin(s=15, n=1)
    wait_until_running(stack)
    os.kill(stack.pid("worker"), signal.SIGTERM)
    wait_until("the dispatcher knows that it stops", lambda: stack.get("/_everwarm/health")[0] == 503)
    assert not running.done()
    answer = work(n=2)
    assert (answer.status, answer.error) == (503, "ServiceException")
    assert answer.took_s < 6
    stack.stop("worker", 25)
    assert running.result(1).good
