"""More than the parts were made for: callers, user ids, memory. Every call gets an answer, and the rest goes on."""

import concurrent.futures
import time
from collections.abc import Callable

from tests.faults.calls import caller
from tests.services.stack import Stack
from tests.services.waiting import wait_until


def test_more_callers_than_redis_connections(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(EVERWARM_CONCURRENCY="8")
    work = caller(stack)
    assert work(n=1).good
    with concurrent.futures.ThreadPoolExecutor(150) as callers:
        answers = list(callers.map(lambda number: work(n=number), range(300)))
    assert {(answer.status, answer.error) for answer in answers} == {(200, "")}
    assert [answer.body["n"] for answer in answers] == list(range(300))


def test_a_worker_without_user_ids_answers_at_once(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(EVERWARM_LOCAL_UIDS="1999100000-1999100001", EVERWARM_CONCURRENCY="4")
    work = caller(stack)
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as callers:
        answers = list(callers.map(lambda number: work(n=number, s=4), range(4)))
    assert time.monotonic() - began < 20
    assert {answer.status for answer in answers} <= {200, 500}
    refused = [answer for answer in answers if answer.error == "ServiceException"]
    assert refused
    assert max(answer.took_s for answer in refused) < 8, "it waited for a user id"
    assert work.wait_until_good(n=9).body["n"] == 9


def test_a_full_redis_is_waited_out(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(EVERWARM_SYNC_QUEUE_WAIT_S="2")
    work = caller(stack)
    assert work(n=1).good
    worker = stack.pid("worker")
    call = work.begin(n=2, s=4)
    wait_until("it runs", lambda: b'"leased"' in stack.get("/_everwarm/environments")[1])
    limit = str(stack.redis.client.config_get("maxmemory")["maxmemory"])
    stack.redis.client.config_set("maxmemory", 1_000_000)
    refused = work(n=3)
    assert refused.status == 503
    stack.redis.client.config_set("maxmemory", limit)
    answer = call.result(10)
    assert answer.body["n"] == 2
    assert work.wait_until_good(n=4).body["n"] == 4
    assert stack.pid("worker") == worker
