"""Celery messages delivered twice, after a worker's death, and such as nobody can read."""

import json
import time
from typing import Any

from tests.faults.calls import caller, starts, wait_until_quiet
from tests.services.stack import Stack
from tests.services.waiting import wait_until
from workers.contract.broker import envelope, queue

QUEUE = queue("local", "sync")


def publish_without_worker(stack: Stack, work: Any) -> tuple[Any, bytes]:
    """A call under way whose message lies in the queue, since its worker was just killed."""
    stack.kill9("worker")
    call = work.begin(n=2, s=1)
    client = stack.redis.client
    wait_until("the message is there", lambda: client.llen(QUEUE))
    (message,) = client.lrange(QUEUE, 0, -1)
    assert isinstance(message, bytes)
    return call, message


def test_the_same_message_twice_runs_once(own_stack: Stack) -> None:
    work = caller(own_stack)
    assert work(n=1).good
    wait_until("the log is stored", lambda: starts(own_stack, "work") == 1)
    call, message = publish_without_worker(own_stack, work)
    own_stack.redis.client.lpush(QUEUE, message, message)
    own_stack.start_part("worker")
    assert call.result(10).body["n"] == 2
    wait_until_quiet(own_stack)
    # And long after its end.
    own_stack.redis.client.lpush(QUEUE, message)
    wait_until_quiet(own_stack)
    assert work(n=3).good
    wait_until("the log is stored", lambda: starts(own_stack, "work") >= 3)
    assert starts(own_stack, "work") == 3


def test_a_message_survives_its_worker(own_stack: Stack) -> None:
    """Nobody had claimed it: the next worker runs it."""
    work = caller(own_stack)
    assert work(n=1).good
    call, _ = publish_without_worker(own_stack, work)
    own_stack.start_part("worker")
    answer = call.result(10)
    assert answer.good, answer


def test_messages_that_nobody_can_read_are_dropped(own_stack: Stack) -> None:
    work = caller(own_stack)
    assert work(n=1).good
    client = own_stack.redis.client
    good = json.loads(envelope(b"\x80 secret words", QUEUE))
    client.lpush(QUEUE, envelope(b"", QUEUE), envelope(b"\xc1\xff", QUEUE), envelope(b"\x81\xa1v\xcd\x03\xe7", QUEUE))
    changes: list[dict[str, Any]] = [
        {"body": "no base64 !"},
        {"content-type": "application/x-python-serialize"},
        {"headers": {}},
    ]
    for change in changes:
        client.lpush(QUEUE, json.dumps({**good, **change}))
    client.lpush(QUEUE, json.dumps({**good, "headers": {**good["headers"], "task": "os.system"}}))
    wait_until("the queue is empty", lambda: not client.llen(QUEUE))
    began = time.monotonic()
    assert work.wait_until_good(n=2).body["n"] == 2
    assert time.monotonic() - began < 5
    wait_until_quiet(own_stack)
    assert own_stack.log_text().count("dropped") >= 6
    assert "secret words" not in own_stack.log_text()
