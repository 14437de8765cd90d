"""A worker whose consumer stalls ends loudly, and its supervisor starts it again; one that only waits goes on."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.calls import Caller, caller, create, environment_processes, wait_until_quiet
from tests.faults.test_redis import frozen
from tests.services.processes import alive, look
from tests.services.stack import Stack
from tests.services.up import Up
from tests.services.waiting import wait_until

LIMIT_S = 6.0
#: Imported by each Python at its start. In a worker it shortens the limit, and lets SIGUSR2 block the main thread, which
#: is the consumer's, for ever: signal handlers run there, wherever it is.
HOOK = f"""\
import signal, sys, threading
if sys.orig_argv[-2:] == ["-m", "workers"]:
    from workers.intake import watchdog
    watchdog.LIMIT_S = {LIMIT_S}
    signal.signal(signal.SIGUSR2, lambda *_: threading.Event().wait())
"""
LOUD = "the worker ends: its consumer stalls: the queues were not asked for"


@pytest.fixture
def hook(tmp_path: Path) -> str:
    """A PYTHONPATH with the hook."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    return str(tmp_path)


@pytest.fixture
def stack(make_stack: Callable[..., Stack], hook: str) -> Stack:
    return make_stack(PYTHONPATH=hook, EVERWARM_CONCURRENCY="2")


def wait_for(seconds: float) -> None:
    """A stretch of time in which nothing may happen is the condition."""
    began = time.monotonic()
    wait_until("the time is over", lambda: time.monotonic() - began > seconds, seconds + 1, every_s=0.2)


def assert_lives(stack: Stack, work: Caller) -> None:
    assert work.wait_until_good(15, n=2).good
    wait_for(LIMIT_S + 2)
    assert work(n=3).good
    assert stack.runs("worker")
    assert LOUD not in stack.log_text()


def test_a_stalled_consumer_ends_the_worker(stack: Stack) -> None:
    work = caller(stack)
    assert work(n=1).good
    worker = look(stack.pid("worker"))
    assert worker is not None
    os.kill(worker.pid, signal.SIGUSR2)
    began = time.monotonic()
    wait_until("the worker has ended", lambda: not stack.runs("worker"), LIMIT_S + 12)
    assert time.monotonic() - began > LIMIT_S - 1.5
    (line,) = [line for line in stack.log_text().splitlines() if LOUD in line]
    assert "critical" in line.lower()
    assert "though slots are free and Redis answers" in line
    assert "sitecustomize.py" in line, "it says where the consumer hangs"
    wait_until("its environments end with it", lambda: not environment_processes(stack))
    stack.start_part("worker")
    assert work.wait_until_good(10, n=2).good


def test_under_everwarm_up_it_is_started_again(up: Callable[..., Up], hook: str) -> None:
    one = up(PYTHONPATH=hook).wait_until_ready()
    work = create(one.client())
    assert work(n=1).good
    stalled = one.part("workers")
    os.kill(stalled.pid, signal.SIGUSR2)
    wait_until("the worker has ended", lambda: not alive(stalled), LIMIT_S + 12)
    assert work.wait_until_good(10, n=2).good
    assert one.part("workers").pid != stalled.pid
    assert LOUD in one.output()
    assert "worker 1 ended with status 1; it is started again in 0.1 s" in one.output()
    assert "Traceback" not in one.output()


def test_a_full_worker_is_not_stalled(stack: Stack) -> None:
    work = caller(stack)
    calls = [work.begin(s=LIMIT_S + 3) for _ in range(2)]
    assert all(call.result(30).good for call in calls)
    assert_lives(stack, work)
    wait_until_quiet(stack)


def test_a_worker_that_was_suspended_is_not_stalled(stack: Stack) -> None:
    work = caller(stack)
    assert work(n=1).good
    with frozen(stack.pid("worker")):
        wait_for(LIMIT_S + 3)
    assert_lives(stack, work)


@pytest.mark.parametrize("fault", ["clients killed", "restart", "hang"])
def test_after_a_fault_of_redis_it_consumes_again(stack: Stack, fault: str) -> None:
    work = caller(stack)
    assert work(n=1).good
    match fault:
        case "clients killed":
            for _ in range(3):
                assert stack.redis.client.client_kill_filter(_type="normal", skipme=True) > 2
                work.wait_until_good(15, n=4)
        case "restart":
            stack.redis.restart()
        case "hang":
            with frozen(stack.redis.pid):
                wait_for(LIMIT_S + 3)
    assert_lives(stack, work)
