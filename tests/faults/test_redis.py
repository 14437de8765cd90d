"""Redis killed, restarted empty, away for long, and frozen, while calls run."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.faults.calls import (
    Caller,
    Load,
    caller,
    environment_processes,
    wait_until_quiet,
    wait_until_running,
)
from tests.services.stack import Stack
from tests.services.waiting import wait_until


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process does not run inside the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def assert_admits_exactly(stack: Stack, work: Caller, count: int) -> None:
    """Reserved concurrency ``count`` lets that many calls run, and no more."""
    work.client.put_function_concurrency(FunctionName=work.name, ReservedConcurrentExecutions=count)
    calls = [work.begin(s=6) for _ in range(count)]
    wait_until_running(stack, count)
    refused = work(n=1)
    assert (refused.status, refused.error) == (429, "TooManyRequestsException")
    assert all(call.result(20).good for call in calls)
    assert work(n=2).good
    work.client.delete_function_concurrency(FunctionName=work.name)


def test_killed_and_restarted_empty_under_load(own_stack: Stack) -> None:
    work = caller(own_stack)
    assert work(n=1).good
    long_one = work.begin(s=6, n=42)
    wait_until_running(own_stack)
    load = Load(work, 8, n=7)
    wait_until("the load runs", lambda: load.good_since(0) >= 20)
    own_stack.redis.kill9()
    refused = work(n=0)
    assert (refused.status, refused.error) == (503, "ServiceException")
    assert refused.took_s < 6
    own_stack.redis.start()
    back = time.monotonic()
    wait_until("it serves again", lambda: load.good_since(back) >= 8, 9)
    served = time.monotonic() - back
    answer = long_one.result(10)
    assert answer.good, answer
    assert answer.body["n"] == 42
    wait_until("it goes on", lambda: load.good_since(back) >= 100, 10)
    answers = load.stop()
    assert {answer.body["n"] for answer in answers if answer.good} == {7}
    assert all(answer.good or answer.refused for answer in answers)
    assert max(answer.took_s for answer in answers) < 9.5, "a call hung"
    print(f"served again after {served:.2f} s; {len(answers)} calls, {sum(not a.good for a in answers)} refused")
    assert served < 9
    wait_until_quiet(own_stack)
    assert_admits_exactly(own_stack, work, 3)
    assert "Traceback" not in own_stack.log_text()


def test_calls_are_refused_while_redis_is_away_for_long(own_stack: Stack) -> None:
    work = caller(own_stack)
    assert work(n=1).good
    own_stack.redis.kill9()
    began = time.monotonic()
    for _ in range(5):
        answer = work(n=2)
        assert (answer.status, answer.error) == (503, "ServiceException"), answer
        assert answer.took_s < 6
    wait_until("it has been away for 20 s", lambda: time.monotonic() - began > 20, 25, every_s=0.5)
    own_stack.redis.start()
    back = time.monotonic()
    answer = work.wait_until_good(9, n=3)
    assert time.monotonic() - back < 9
    assert answer.body["calls"] == 2, "the warm environment was lost with Redis"
    assert all(work(n=n).good for n in range(5))
    wait_until_quiet(own_stack)


def test_a_call_that_redis_outlives_not(own_stack: Stack) -> None:
    work = caller(own_stack)
    assert work(n=1).good
    call = work.begin(s=4, n=5)
    wait_until_running(own_stack)
    own_stack.redis.kill9()
    wait_until("the function is done before Redis is back", lambda: not call.done() and own_stack.pid("worker"))
    began = time.monotonic()
    wait_until("the function has ended", lambda: time.monotonic() - began > 5, 6, every_s=0.2)
    assert not call.done()
    own_stack.redis.start()
    assert call.result(5).body["n"] == 5
    wait_until_quiet(own_stack)


def test_frozen_for_some_seconds(own_stack: Stack) -> None:
    work = caller(own_stack)
    assert work(n=1).good
    long_one = work.begin(s=3, n=42)
    wait_until_running(own_stack)
    load = Load(work, 4, n=7)
    wait_until("the load runs", lambda: load.good_since(0) >= 10)
    with frozen(own_stack.redis.pid):
        began = time.monotonic()
        wait_until("it was frozen for 5 s", lambda: time.monotonic() - began > 5, 6, every_s=0.2)
    thawed = time.monotonic()
    wait_until("it serves again", lambda: load.good_since(thawed) >= 20, 9)
    assert long_one.result(5).body["n"] == 42
    answers = load.stop()
    assert all(answer.good or answer.refused for answer in answers)
    assert max(answer.took_s for answer in answers) < 9.5, "a call hung"
    wait_until_quiet(own_stack)
    assert_admits_exactly(own_stack, work, 3)
    assert "Traceback" not in own_stack.log_text()


def test_frozen_redis_is_answered_soon(own_stack: Stack) -> None:
    work = caller(own_stack)
    assert work(n=1).good
    with frozen(own_stack.redis.pid):
        first = work(n=2)
        assert (first.status, first.error) == (503, "ServiceException")
        assert first.took_s < 6
        wait_until("the dispatcher knows", lambda: work(n=3).took_s < 0.5)
    work.wait_until_good(5, n=4)
    wait_until_quiet(own_stack)


def test_a_worker_that_stops_without_redis(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(EVERWARM_DRAIN_S="2", EVERWARM_SYNC_QUEUE_WAIT_S="3")
    work = caller(stack)
    call = work.begin(s=1, n=5)
    wait_until_running(stack)
    stack.redis.kill9()
    stack.stop("worker", 8)
    assert not environment_processes(stack)
    stack.redis.start()
    answer = call.result(15)
    assert answer.refused, answer


def test_a_flushed_redis_loses_no_running_call(own_stack: Stack) -> None:
    work = caller(own_stack)
    assert work(n=1).good
    call = work.begin(s=3, n=2)
    wait_until_running(own_stack)
    own_stack.redis.client.flushall()
    assert call.result(10).body["n"] == 2
    assert work.wait_until_good(5, n=3).good
    wait_until_quiet(own_stack)
    assert_admits_exactly(own_stack, work, 2)


def test_what_runs_still_counts_after_a_restart(own_stack: Stack) -> None:
    work = caller(own_stack)
    work.client.put_function_concurrency(FunctionName=work.name, ReservedConcurrentExecutions=2)
    long_one = work.begin(s=20, n=1)
    wait_until_running(own_stack)
    own_stack.redis.restart()
    assert work.wait_until_good(5, n=2).good
    wait_until_running(own_stack, 1)
    second = work.begin(s=6, n=3)
    wait_until_running(own_stack, 2)
    assert work(n=4).status == 429
    assert second.result(15).good
    assert not long_one.done()
    assert long_one.result(30).body["n"] == 1
    wait_until_quiet(own_stack)
    assert_admits_exactly(own_stack, work, 2)


def test_every_slot_is_there_after_a_restart(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(EVERWARM_CONCURRENCY="3")
    work = caller(stack)
    calls = [work.begin(s=3) for _ in range(3)]
    wait_until_running(stack, 3)
    stack.redis.restart()
    assert all(call.result(10).good for call in calls)
    work.wait_until_good(5)
    for _ in range(2):
        calls = [work.begin(s=4) for _ in range(3)]
        assert all(call.result(20).took_s < 7.5 for call in calls), "they did not run side by side"


def test_pages_while_redis_is_frozen(own_stack: Stack) -> None:
    with frozen(own_stack.redis.pid):
        for page in ("environments", "metrics"):
            status, body = own_stack.get(f"/_everwarm/{page}")
            assert (status, body) == (503, b'{"message":"Redis does not answer"}')
    wait_until("it is ready again", lambda: own_stack.get("/_everwarm/metrics")[0] == 200)
