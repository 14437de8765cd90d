"""Asynchronous calls in every mode: they fail when the function does, are tried again, and write to the function's log."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.test_output import stored_log
from tests.conformance.test_results import report_of
from tests.services.calls import states, wait_until_running
from tests.services.docker import settings_of
from tests.services.events import event_of, result_of, send, wait_until_ended
from tests.services.functions import Functions
from tests.services.stack import Stack
from tests.services.waiting import wait_until

MakeFunctions = Callable[..., Functions]


@pytest.fixture
def functions(mode: str, shared_stack: Callable[..., Stack]) -> Iterator[Functions]:
    """As elsewhere here, on stacks where the minutes between retries take a fifth of a second."""
    found = Functions(shared_stack(f"{mode}, fast", **settings_of(mode), EVERWARM_TIME_SCALE="300"), mode)
    yield found
    found.wait_until_only_warm_ones_are_left()
    found.delete_all()


def test_what_fails_has_failed_and_is_tried_again(functions: Functions) -> None:
    name = functions.sample("raises")
    request_id = send(functions, name, {"message": "höchst “unusual”"})
    event = wait_until_ended(functions.stack, request_id, 60)
    assert (event.state, event.condition, event.tries) == ("failed", "RetriesExhausted", 3)
    assert event.kinds == ["function_error"] * 3
    assert event.error_message == "höchst “unusual”"
    for attempt in event.attempts:
        found = json.loads(attempt["result"])
        assert list(found) == ["errorMessage", "errorType", "requestId", "stackTrace"]
        assert found["requestId"] == request_id
        assert report_of(attempt["log_tail"].decode())["id"] == request_id


def test_the_type_of_an_error_is_the_functions_own(functions: Functions) -> None:
    """AWS's clients put "Unhandled" into their header, whatever it is."""
    name = functions.sample("raises")
    functions.client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    assert wait_until_ended(functions.stack, send(functions, name, {}), 60).error_type == "ValueError"


def test_its_logs_are_in_the_functions_log(functions: Functions) -> None:
    name = functions.python(
        "def handler(event, context):\n    print('seen', context.aws_request_id)\n    return 'x' * 10"
    )
    request_id = send(functions, name, {})
    event = wait_until_ended(functions.stack, request_id, 60)
    assert (event.state, event.kinds, result_of(event)) == ("succeeded", ["success"], "x" * 10)
    log = stored_log(functions, name, request_id).decode()
    assert f"START RequestId: {request_id} Version: $LATEST\n" in log
    assert f"seen {request_id}\n" in log
    assert f"END RequestId: {request_id}\n" in log


@pytest.mark.parametrize("size", [64 * 1024 - 1, 64 * 1024 + 1, 1024 * 1024], ids=["inline", "separate", "largest"])
def test_large_payloads_arrive(functions: Functions, size: int) -> None:
    source = """
import hashlib
def handler(event, context):
    return [len(event), hashlib.sha256(event.encode()).hexdigest()]
"""
    name = functions.python(source, MemorySize=512)
    text = ("0123456789abcdef" * (size // 16 + 1))[: size - 2]
    event = wait_until_ended(functions.stack, send(functions, name, text), 60)
    assert (event.state, result_of(event)) == ("succeeded", [size - 2, hashlib.sha256(text.encode()).hexdigest()])


@pytest.mark.parametrize(
    ("sample", "error"),
    [("hang", "Sandbox.Timedout"), ("kill_self", "Runtime.ExitError"), ("init_missing", "Runtime.ImportModuleError")],
)
def test_whatever_ends_it_is_a_try(functions: Functions, sample: str, error: str) -> None:
    name = functions.sample(sample, Timeout=1 if sample == "hang" else 20)
    functions.client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=1)
    event = wait_until_ended(functions.stack, send(functions, name, {}), 60)
    assert (event.state, event.condition, event.kinds) == ("failed", "RetriesExhausted", ["function_error"] * 2)
    assert [attempt["error_type"] for attempt in event.attempts] == [error] * 2
    if sample == "hang":
        assert "Task timed out after 1.00 seconds" in event.attempts[0]["log_tail"].decode()


def test_the_next_events_run_after_one_that_ended_its_process(functions: Functions) -> None:
    source = """
import os
def handler(event, context):
    if event == "exit":
        os._exit(3)
    return event
"""
    name = functions.python(source)
    functions.client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    words = ["one", "exit", "two", "exit", "three"]
    ids = [send(functions, name, word) for word in words]
    events = [wait_until_ended(functions.stack, request_id, 60) for request_id in ids]
    assert [event.state for event in events] == ["succeeded" if word != "exit" else "failed" for word in words]
    assert [result_of(event) for event, word in zip(events, words, strict=True) if word != "exit"] == [
        "one",
        "two",
        "three",
    ]


def test_one_whose_worker_stops_begins_again_and_that_is_no_try(make_functions: MakeFunctions) -> None:
    functions = make_functions(EVERWARM_DRAIN_S="1")
    source = """
import time
def handler(event, context):
    while time.time() < event["until"]:
        time.sleep(0.05)
    return "done"
"""
    name = functions.python(source, Timeout=60)
    functions.client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    request_id = send(functions, name, {"until": time.time() + 10})
    wait_until_running(functions, name)
    functions.stack.stop("worker")
    wait_until("it went back", lambda: event_of(functions.stack, request_id).kinds == ["interrupted"])
    functions.stack.start_part("worker")
    event = wait_until_ended(functions.stack, request_id, 60)
    assert (event.state, event.tries, event.kinds, result_of(event)) == (
        "succeeded", 1, ["interrupted", "success"], "done",
    )  # fmt: skip


def test_a_running_one_is_cancelled_and_the_next_runs(functions: Functions) -> None:
    source = """
import time
def handler(event, context):
    time.sleep(event["s"])
    return "done"
"""
    name = functions.python(source, Timeout=60)
    request_id = send(functions, name, {"s": 50})
    wait_until_running(functions, name)
    status, body = functions.stack.post(f"/_everwarm/invocations/{request_id}/cancel")
    assert status == 200, body
    assert event_of(functions.stack, request_id).state == "cancelled"
    wait_until("its environment is gone", lambda: "leased" not in states(functions, name), 20)
    event = wait_until_ended(functions.stack, send(functions, name, {"s": 0}), 60)
    assert (event.state, result_of(event)) == ("succeeded", "done")
    assert event_of(functions.stack, request_id).state == "cancelled"
