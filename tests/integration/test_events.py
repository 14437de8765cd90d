"""Asynchronous invocations on whole stacks, as AWS has them; where AWS waits for minutes the clock is faster."""

import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.services.calls import wait_until_handed_back
from tests.services.events import THROUGH_GATE, Gate, event_of, events_of, result_of, send, wait_until_ended
from tests.services.functions import Functions
from tests.services.stack import Stack
from tests.services.waiting import wait_until

MB = 1 << 20
#: A minute is a fifth of a second: the retries after one and two minutes, the backoffs from a second on, and the age.
FAST = {"EVERWARM_TIME_SCALE": "300"}
GATED = THROUGH_GATE + "handler = through_gate\n"
FAILING = THROUGH_GATE + "def handler(event, context):\n    through_gate(event, context)\n    raise ValueError('no')\n"
#: Calls itself with the trace that it was called with, as AWS's SDKs do.
ITSELF = """
import json, os, urllib.request
def handler(event, context):
    url = os.environ["AWS_ENDPOINT_URL_LAMBDA"] + "/2015-03-31/functions/" + event["other"] + "/invocations"
    following = json.dumps({**event, "other": event["own"], "own": event["other"]}).encode()
    request = urllib.request.Request(url, data=following, method="POST")
    request.add_header("X-Amzn-Trace-Id", os.environ["_X_AMZN_TRACE_ID"])
    request.add_header("X-Amz-Invocation-Type", event["kind"])
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.loads(answer.read() or b"null")
            return [1, None] if found is None else [found[0] + 1, found[1]]
    except urllib.error.HTTPError as error:
        return [1, [error.code, error.headers["x-amzn-errortype"], json.loads(error.read())]]
"""


@pytest.fixture
def functions(shared_stack: Callable[..., Stack]) -> Functions:
    """Functions on a stack with a fast clock, which tests share."""
    return Functions(shared_stack("fast events", **FAST))


@pytest.fixture
def make_functions(make_stack: Callable[..., Stack]) -> Callable[..., Functions]:
    """Functions on a stack with settings, for this test alone."""
    return lambda **environ: Functions(make_stack(**environ))


def post(functions: Functions, path: str, body: bytes, **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body."""
    parts = urlsplit(functions.stack.endpoint)
    with closing(HTTPConnection(parts.hostname or "", parts.port, timeout=30)) as connection:
        # A body that is too large is refused before it has been read, as its sender may notice.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def gone(functions: Functions, where: str, *values: object) -> bool:
    """Whether none of these events is queued or in flight any more."""
    return not events_of(functions.stack, f"{where} AND state IN ('queued', 'fed')", *values)


# --- the answer, and who sees the request id ---


def test_one_request_id_for_all(functions: Functions) -> None:
    name = functions.python(
        "def handler(event, context):\n    print('seen', context.aws_request_id)\n    return event['x']"
    )
    request_id = send(functions, name, {"no x": 1})
    event = wait_until_ended(functions.stack, request_id)
    assert (event.state, event.condition, event.tries) == ("failed", "RetriesExhausted", 3)
    assert event.kinds == ["function_error"] * 3
    assert (event.error_type, event.error_message) == ("KeyError", "'x'")
    for attempt in event.attempts:
        assert json.loads(attempt["result"])["requestId"] == request_id
        assert f"START RequestId: {request_id} Version: $LATEST\n" in attempt["log_tail"].decode()
    # The log of a function has all of it, for people who look there.
    url = f"/_everwarm/logs/{name}"
    wait_until("the log is stored", lambda: functions.stack.get(url)[1].count(b"END RequestId: ") == 3)
    log = functions.stack.get(url)[1].decode()
    assert log.count(f"seen {request_id}\n") == log.count(f"REPORT RequestId: {request_id}\t") == 3


def test_the_answer_to_an_event(functions: Functions) -> None:
    name = functions.sample("echo")
    status, headers, body = post(
        functions, f"/2015-03-31/functions/{name}/invocations", b'{"a": 1}', **{"X-Amz-Invocation-Type": "Event"}
    )
    assert (status, body, headers["content-length"]) == (202, b"", "0")
    assert "x-amz-executed-version" not in headers
    assert result_of(wait_until_ended(functions.stack, headers["x-amzn-requestid"])) == {"a": 1}
    # No payload is an empty object.
    assert result_of(wait_until_ended(functions.stack, send(functions, name))) == {}


def test_a_megabyte_and_no_more(functions: Functions) -> None:
    name = functions.python("def handler(event, context):\n    return len(event)", MemorySize=512)
    largest = b'"' + b"x" * (MB - 2) + b'"'
    event = wait_until_ended(functions.stack, send(functions, name, Payload=largest))
    assert (event.state, result_of(event)) == ("succeeded", MB - 2)
    code, status, answer = functions.refused(name, Payload=largest + b" ", InvocationType="Event", LogType=None)
    assert (code, status) == ("RequestTooLargeException", 413)
    assert answer["Error"]["Message"] == "Request must be smaller than 1048576 bytes for the InvokeFunction operation"
    # The same call is none too large for a caller who waits.
    assert functions.invoke(name, Payload=largest + b" ").json == MB - 2


def test_what_is_refused_is_not_kept(functions: Functions) -> None:
    name = functions.sample("echo")
    for payload in (b"{", b"nothing", b"\xff", b'{"a": 1}}'):
        code, status, _ = functions.refused(name, Payload=payload, InvocationType="Event", LogType=None)
        assert (code, status) == ("InvalidRequestContentException", 400)
    for unknown, qualifier in (("nobody-made-this", None), (name, "9"), (name, "nothing")):
        code, status, answer = functions.refused(unknown, {}, InvocationType="Event", LogType=None, Qualifier=qualifier)
        assert (code, status) == ("ResourceNotFoundException", 404)
        assert answer["Error"]["Message"] == f"Function not found: {functions.arn(unknown, qualifier or '$LATEST')}"
    assert events_of(functions.stack, "function LIKE ?", f"%:{name}") == []


def test_an_event_runs_the_version_that_its_alias_names(functions: Functions) -> None:
    source = "def handler(event, context):\n    return [{}, context.invoked_function_arn, context.function_version]"
    name = functions.python(source.format(1))
    functions.client.publish_version(FunctionName=name)
    functions.client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    functions.update(name, source.format(2))

    def answer(called: str = name, **members: Any) -> Any:
        return result_of(wait_until_ended(functions.stack, send(functions, called, {}, **members)))

    assert answer() == [2, functions.arn(name), "$LATEST"]
    assert answer(Qualifier="1") == [1, functions.arn(name, "1"), "1"]
    assert answer(Qualifier="live") == answer(f"{name}:live") == [1, functions.arn(name, "live"), "1"]
    assert answer(functions.arn(name, "live")) == [1, functions.arn(name, "live"), "1"]


def test_the_old_invoke_async_accepts_an_event(functions: Functions) -> None:
    name = functions.sample("echo")
    path = f"/2014-11-13/functions/{name}/invoke-async"
    for slash in ("", "/"):
        status, headers, body = post(functions, path + slash, b'{"a": 1}')
        assert (status, body) == (202, b"{}")
        assert result_of(wait_until_ended(functions.stack, headers["x-amzn-requestid"])) == {"a": 1}
    found = functions.client.invoke_async(FunctionName=name, InvokeArgs=b'{"b": 2}')
    assert (found["Status"], found["ResponseMetadata"]["HTTPStatusCode"]) == (202, 202)
    event = wait_until_ended(functions.stack, found["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"])
    assert result_of(event) == {"b": 2}
    assert post(functions, path, b"{")[0] == 400
    assert post(functions, path.replace(name, "nobody-made-this"), b"{}")[0] == 404
    assert post(functions, path, b'"' + b"x" * MB + b'"')[0] == 413


# --- retries ---


def test_two_retries_after_one_minute_and_two(functions: Functions, gate: Gate) -> None:
    gate.open()
    name = functions.python(FAILING)
    functions.invoke(name, {"gate": gate.url, "name": "warm"})
    scale = float(FAST["EVERWARM_TIME_SCALE"])
    request_id = send(functions, name, {"gate": gate.url})
    event = wait_until_ended(functions.stack, request_id)
    assert gate.ids() == [request_id] * 3
    gaps = [(after["started_at"] - before["ended_at"]) / 1000 for before, after in pairwise(event.attempts)]
    for gap, wanted in zip(gaps, (60 / scale, 120 / scale), strict=True):
        assert wanted - 0.02 <= gap <= wanted + 10, gaps


@pytest.mark.parametrize("retries", [0, 1])
def test_a_function_is_tried_again_as_often_as_it_says(functions: Functions, retries: int) -> None:
    name = functions.sample("raises")
    functions.client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=retries)
    event = wait_until_ended(functions.stack, send(functions, name, {}))
    assert (event.state, event.condition, event.tries) == ("failed", "RetriesExhausted", retries + 1)


def test_a_timeout_and_a_crash_are_tries_too(functions: Functions) -> None:
    def types_of(name: str) -> set[str]:
        event = wait_until_ended(functions.stack, send(functions, name, {}))
        assert (event.condition, event.tries, event.kinds) == ("RetriesExhausted", 3, ["function_error"] * 3)
        return {attempt["error_type"] for attempt in event.attempts}

    hangs = functions.sample("hang", Timeout=1)
    killed, missing = functions.sample("kill_self"), functions.sample("init_missing")
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(types_of, (hangs, killed, missing))) == [
            {"Sandbox.Timedout"}, {"Runtime.ExitError"}, {"Runtime.ImportModuleError"},
        ]  # fmt: skip


def test_a_fixed_function_cures_its_waiting_retries(make_functions: Callable[..., Functions]) -> None:
    functions = make_functions(LAMBDA_RETRY_BASE_DELAY="20")
    name = functions.sample("raises")
    ids = [send(functions, name, {"number": number}) for number in range(5)]
    where = f"function LIKE '%:{name}' AND tries = 1"
    wait_until("each has failed once", lambda: len(events_of(functions.stack, where)) == 5)
    functions.update(name, "def handler(event, context):\n    return 'cured'")
    functions.configure(name, Handler="index.handler")
    for request_id in ids:
        event = wait_until_ended(functions.stack, request_id, 60)
        assert (event.state, event.kinds, result_of(event)) == ("succeeded", ["function_error", "success"], "cured")


# --- limits ---


def test_an_event_that_is_too_old_ends(functions: Functions, gate: Gate) -> None:
    name = functions.python(GATED)
    put = functions.client.put_function_concurrency
    put(FunctionName=name, ReservedConcurrentExecutions=1)
    running = send(functions, name, {"gate": gate.url})
    wait_until("it runs", lambda: gate.inside[""] == 1)
    functions.client.put_function_event_invoke_config(FunctionName=name, MaximumEventAgeInSeconds=60)
    late = send(functions, name, {"gate": gate.url})
    event = wait_until_ended(functions.stack, late)
    assert (event.state, event.condition, event.tries) == ("failed", "EventAgeExceeded", 0)
    # What runs when its time is over may end.
    gate.open()
    assert wait_until_ended(functions.stack, running).state == "succeeded"
    assert gate.ids() == [running]


def test_throttled_by_a_synchronous_call_until_it_is_too_old(functions: Functions, gate: Gate) -> None:
    name = functions.python(GATED)
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    functions.client.put_function_event_invoke_config(FunctionName=name, MaximumEventAgeInSeconds=3600)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(functions.invoke, name, {"gate": gate.url})
        wait_until("it runs", lambda: gate.inside[""] == 1)
        request_id = send(functions, name, {"gate": gate.url})
        wait_until("it was throttled often", lambda: len(event_of(functions.stack, request_id).attempts) >= 4)
        event = event_of(functions.stack, request_id)
        assert (event.state in {"queued", "fed"}, event.tries, set(event.kinds)) == (True, 0, {"throttled"})
        gate.open()
        assert call.result(20).error is None
    event = wait_until_ended(functions.stack, request_id)
    assert (event.state, event.tries, event.kinds[-1]) == ("succeeded", 1, "success")


def test_no_concurrency_at_all(functions: Functions) -> None:
    name = functions.sample("echo")
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    event = wait_until_ended(functions.stack, send(functions, name, {}))
    assert (event.state, event.condition, event.tries) == ("failed", "ZeroReservedConcurrency", 0)
    assert (event.attempt, event.attempts) == (0, [])


def test_one_at_a_time_and_all_of_them(functions: Functions, gate: Gate) -> None:
    name = functions.python(GATED)
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    ids = [send(functions, name, {"gate": gate.url}) for _ in range(25)]
    wait_until("one runs", lambda: gate.inside[""] == 1)
    gate.open()
    events = [wait_until_ended(functions.stack, request_id) for request_id in ids]
    assert [event.state for event in events] == ["succeeded"] * 25
    runs = sorted((event.attempts[-1]["started_at"], event.attempts[-1]["ended_at"]) for event in events)
    # To the millisecond, as their ends are known.
    assert all(after[0] >= before[1] - 1 for before, after in pairwise(runs)), runs
    assert gate.most[""] == 1
    assert sorted(gate.ids()) == sorted(ids)


# --- recursion ---


def test_a_function_that_sends_events_to_itself_is_stopped(functions: Functions) -> None:
    name = functions.python(ITSELF)
    functions.client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    send(functions, name, {"own": name, "other": name, "kind": "Event"})
    where = f"function LIKE '%:{name}'"
    wait_until("the 17th was stopped", lambda: events_of(functions.stack, f"{where} AND state = 'failed'"), 30)
    wait_until("the 16th has ended too", lambda: gone(functions, where))
    found = events_of(functions.stack, where)
    assert [event.state for event in found] == ["succeeded"] * 16 + ["failed"]
    assert (found[-1].error_type, found[-1].condition) == ("RecursiveInvocationException", "RetriesExhausted")
    assert (found[-1].attempts, found[-1].origin) == ([], f"function:{name}")


def test_two_functions_that_call_each_other_are_stopped(make_functions: Callable[..., Functions]) -> None:
    functions = make_functions(EVERWARM_CONCURRENCY="40")
    first, second = functions.python(ITSELF, Timeout=60), functions.python(ITSELF, Timeout=60)
    answer = functions.invoke(first, {"own": first, "other": second, "kind": "RequestResponse"}).json
    depth, (status, error, body) = answer
    assert (depth, status, error) == (32, 400, "RecursiveInvocationException")
    assert body["Message"].startswith("Lambda has detected your function being invoked in a recursive loop")


# --- beside others ---


def test_a_call_beside_a_full_pool_and_a_backlog(make_functions: Callable[..., Functions], gate: Gate) -> None:
    functions = make_functions(EVERWARM_CONCURRENCY="8")
    slow, quick = functions.python(GATED, Timeout=60), functions.sample("echo")
    functions.invoke(quick, {})
    for _ in range(100):
        send(functions, slow, {"gate": gate.url})
    wait_until("events have all the slots that they get", lambda: gate.inside[""] == 6, 30)
    took = []
    for _ in range(21):
        wait_until_handed_back(functions, quick)
        began = time.monotonic()
        functions.invoke(quick, {})
        took.append(time.monotonic() - began)
    assert statistics.median(took) < 0.05, took
    assert gate.most[""] == 6
    gate.open()
    wait_until("the backlog is done", lambda: gone(functions, "function LIKE ?", f"%:{slow}"), 30)


def test_a_backlog_does_not_hold_up_another_function(make_functions: Callable[..., Functions], gate: Gate) -> None:
    functions = make_functions(EVERWARM_CONCURRENCY="4")
    gate.open()
    busy, other = functions.sample("sleeps"), functions.python(GATED)
    functions.invoke(busy, {"seconds": 0})
    functions.invoke(other, {"gate": gate.url, "name": "warm"})
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: send(functions, busy, {"seconds": 0.05}), range(3_000)))
    waits = []
    for _ in range(10):
        began = time.monotonic()
        request_id = send(functions, other, {"gate": gate.url})
        wait_until("the other's event runs", lambda: request_id in gate.ids())  # noqa: B023 - waited for here
        waits.append(next(at for at, _, found in gate.passed if found == request_id) - began)
    assert not gone(functions, "function LIKE ?", f"%:{busy}"), "the backlog was done too early to tell"
    assert statistics.median(waits) < 1, waits
    assert max(waits) < 5, waits


def test_without_a_worker_it_waits(make_functions: Callable[..., Functions]) -> None:
    functions = make_functions()
    name = functions.sample("echo")
    functions.stack.stop("worker")
    request_id = send(functions, name, {"kept": True})
    functions.stack.start_part("worker")
    event = wait_until_ended(functions.stack, request_id)
    assert (result_of(event), event.kinds[-1], event.tries) == ({"kept": True}, "success", 1)
