"""``everwarm invocations`` and its pages, on a running server: seen, found by each filter, and cancelled."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.services.commands import Done, everwarm
from tests.services.events import THROUGH_GATE, Gate, event_of, send, wait_until_ended
from tests.services.functions import Functions
from tests.services.metrics import samples_in
from tests.services.stack import ACCOUNT, Stack
from tests.services.waiting import wait_until

#: Answers ``n``, fails with ``error``, sleeps for ``s`` seconds, or waits at the gate.
WORK = (
    THROUGH_GATE
    + """
import time
class Broken(Exception): pass
def handler(event, context):
    print("working on", event)
    if "gate" in event: through_gate(event, context)
    time.sleep(event.get("s", 0))
    if "error" in event: raise Broken(event["error"])
    return event.get("n")
"""
)


@pytest.fixture
def stack(shared_stack: Callable[..., Stack]) -> Stack:
    return shared_stack("invocations", EVERWARM_TIME_SCALE="600", EVERWARM_CONCURRENCY="4")


@pytest.fixture
def functions(stack: Stack) -> Functions:
    return Functions(stack)


def command(stack: Stack, *arguments: str) -> Done:
    return everwarm("invocations", *arguments, environ={"EVERWARM_ENDPOINT": stack.endpoint})


def found(stack: Stack, *arguments: str) -> Any:
    done = command(stack, *arguments, "--json")
    assert (done.status, done.err) == (0, ""), done
    return json.loads(done.out)


def listed(stack: Stack, **filters: str) -> list[str]:
    """Request ids, by the command."""
    options = [text for name, value in filters.items() for text in (f"--{name}", value)]
    return [one["request_id"] for one in found(stack, "list", *options)["invocations"]]


def post(stack: Stack, path: str, body: bytes = b"{}") -> tuple[int, Any]:
    status, answer = stack.post(f"/_everwarm/invocations/{path}", body)
    return status, json.loads(answer)


def refused(stack: Stack, **query: str) -> str:
    status, body = stack.get(f"/_everwarm/invocations?{urlencode(query)}")
    assert status == 400
    return str(json.loads(body)["message"])


def test_one_that_went_well(stack: Stack, functions: Functions) -> None:
    name = functions.python(WORK)
    request_id = send(functions, name, {"n": "ünö"})
    wait_until_ended(stack, request_id)
    one = found(stack, "get", request_id)
    assert (one["function"], one["state"], one["condition"], one["lane"]) == (name, "succeeded", "Success", "event")
    assert json.loads(one["payload"]) == {"n": "ünö"}
    assert one["deliveries"] == []
    (attempt,) = one["attempts"]
    assert json.loads(attempt["result"]) == "ünö"
    assert (attempt["kind"], attempt["version"], attempt["result_truncated"]) == ("success", "$LATEST", False)
    assert attempt["worker"]
    assert attempt["environment"]
    assert "working on" in attempt["log_tail"]
    assert one["accepted_at"] <= attempt["started_at"] <= attempt["ended_at"] == one["ended_at"]
    for text in (request_id, "succeeded", "ünö", attempt["worker"], "working on", "result"):
        assert text in command(stack, "get", request_id).out
    assert command(stack, "get", request_id).err == ""


def test_one_that_failed_with_its_retries(stack: Stack, functions: Functions) -> None:
    name = functions.python(WORK)
    request_id = send(functions, name, {"error": "\x1b[31mon purpose"})
    wait_until_ended(stack, request_id)
    one = found(stack, "get", request_id)
    assert (one["state"], one["condition"], one["error_type"]) == ("failed", "RetriesExhausted", "Broken")
    assert [attempt["kind"] for attempt in one["attempts"]] == ["function_error"] * 3
    assert [attempt["number"] for attempt in one["attempts"]] == [1, 2, 3]
    assert json.loads(one["attempts"][2]["result"])["errorMessage"] == "\x1b[31mon purpose"
    shown = command(stack, "get", request_id).out
    for text in ("attempt 1", "attempt 3", "RetriesExhausted", "Broken", "on purpose", "Traceback"):
        assert text in shown
    assert "\x1b[31mon purpose" not in shown


def test_lists_by_each_filter(stack: Stack, functions: Functions) -> None:
    name, other = functions.python(WORK), functions.python(WORK)
    good, bad, elsewhere = (
        send(functions, name, {"n": 1}), send(functions, name, {"error": "e"}), send(functions, other, {"n": 1}),
    )  # fmt: skip
    for request_id in (good, bad, elsewhere):
        wait_until_ended(stack, request_id)
    assert listed(stack, function=name) == [bad, good]
    assert listed(stack, function=name, limit="1") == [bad]
    assert listed(stack, function=name, region="eu-west-1") == []
    assert listed(stack, function=name, account="111111111111") == []
    assert listed(stack, function=name, state="succeeded") == [good]
    assert listed(stack, function=name, state="failed") == [bad]
    assert listed(stack, function=name, error="Broken") == [bad]
    assert listed(stack, function=name, since="1h", lane="event") == [bad, good]
    assert listed(stack, function=name, until="1h") == []
    assert listed(stack, function=name, lane="replay") == []
    assert listed(stack, function=name, origin="replay:*") == []
    accepted = found(stack, "get", bad)["accepted_at"]
    assert listed(stack, function=name, until=accepted) == [good]
    assert listed(stack, function=name, since=accepted) == [bad]
    assert {good, bad, elsewhere} <= set(listed(stack))
    shown = command(stack, "list", "--function", name)
    assert (shown.status, shown.err) == (0, "")
    assert good in shown.out
    assert "Broken" in shown.out
    assert command(stack, "list", "--function", "nobody").out == "no invocations\n"


def test_cancelled_while_it_waits_and_while_it_runs(stack: Stack, functions: Functions, gate: Gate) -> None:
    name = functions.python(WORK, Timeout=300)
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    running = send(functions, name, {"gate": gate.url})
    wait_until("the first runs", lambda: gate.ids() == [running])
    waiting, last = send(functions, name, {"n": 2}), send(functions, name, {"n": 3})
    assert event_of(stack, waiting).state == "queued"
    assert found(stack, "cancel", waiting) == {"cancelled": 1, "request_ids": [waiting], "more": False}
    assert command(stack, "cancel", running).out == f"cancelled {running}\n"
    # Its slot and its place are free: the next one runs though the gate is shut.
    assert wait_until_ended(stack, last, 10).state == "succeeded"
    assert found(stack, "get", last)["attempts"][0]["number"] == 1
    for request_id in (waiting, running):
        one = found(stack, "get", request_id)
        assert (one["state"], one["condition"], one["attempts"]) == ("cancelled", "Cancelled", [])
    assert sorted(listed(stack, function=name, state="cancelled")) == sorted([waiting, running])
    assert post(stack, f"{waiting}/cancel") == (409, {"message": "the event has ended already: cancelled"})
    done = command(stack, "cancel", last)
    assert (done.status, done.out) == (2, "")
    assert "409: the event has ended already: succeeded" in done.err


def test_the_others_of_its_message_go_on(stack: Stack, functions: Functions, gate: Gate) -> None:
    name = functions.python(WORK, Timeout=300)
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    for number in range(20):  # quick ones, so that more and more go into one message
        wait_until_ended(stack, send(functions, name, {"n": number}))
    first = send(functions, name, {"gate": gate.url, "name": "first"})
    wait_until("the first runs", lambda: gate.ids("first") == [first])
    stuck = send(functions, name, {"s": 200, "n": 0})
    rest = [send(functions, name, {"n": number}) for number in range(5)]
    gate.open()
    wait_until("they are in flight", lambda: event_of(stack, stuck).state == "fed")
    query = "SELECT count(*) FROM events WHERE message = (SELECT message FROM events WHERE request_id = ?)"
    with closing(sqlite3.connect(f"file:{stack.data / 'everwarm.db'}?mode=ro", uri=True)) as ledger:
        assert ledger.execute(query, (stuck,)).fetchone()[0] > 1
    wait_until("it runs", lambda: stack.redis.client.hget(f"everwarm:invocation:{stuck}", "state") == b"run")
    assert post(stack, f"{stuck}/cancel")[0] == 200
    for request_id in rest:
        one = wait_until_ended(stack, request_id, 10)
        assert (one.state, one.kinds) == ("succeeded", ["success"])
    assert event_of(stack, stuck).state == "cancelled"


def test_filters_choose_what_is_cancelled(stack: Stack, functions: Functions, gate: Gate) -> None:
    name, other = functions.python(WORK, Timeout=300), functions.python(WORK, Timeout=300)
    for one in (name, other):
        functions.client.put_function_concurrency(FunctionName=one, ReservedConcurrentExecutions=1)
    mine = [send(functions, name, {"gate": gate.url, "name": name}) for _ in range(30)]
    others = [send(functions, other, {"gate": gate.url, "name": other}) for _ in range(2)]
    wait_until("both run", lambda: gate.ids(name) and gate.ids(other))
    running = gate.ids(name)[0]
    done = found(stack, "cancel", "--function", name, "--state", "queued")
    assert sorted([*done["request_ids"], running]) == sorted(mine)
    assert event_of(stack, running).state == "fed"
    assert found(stack, "cancel", "--function", name, "--until", "1h")["cancelled"] == 0
    assert command(stack, "cancel", "--function", name).out == "cancelled 1 invocation\n"
    assert event_of(stack, running).state == "cancelled"
    assert {event_of(stack, one).state for one in others} == {"fed", "queued"}
    assert sorted(found(stack, "cancel", "--all")["request_ids"]) == sorted(others)
    assert found(stack, "cancel", "--all") == {"cancelled": 0, "request_ids": [], "more": False}


def test_mistakes_in_filters_are_named(stack: Stack) -> None:
    assert refused(stack, state="running").startswith("state: must be one of queued, fed, succeeded")
    assert refused(stack, lane="sync") == "lane: must be one of event, replay"
    assert refused(stack, since="yesterday").startswith("since: must be a time such as")
    assert refused(stack, until="5w").startswith("until: must be a time such as")
    assert refused(stack, limit="0") == refused(stack, limit="1001") == "limit: must be a whole number from 1 to 1000"
    assert refused(stack, functoin="x").startswith("functoin: is no filter; there are account, region, function")
    assert refused(stack, function="") == "function: must be a text that is not empty"
    assert stack.get("/_everwarm/invocations?since=9999-12-31T00:00:00&until=0001-01-01T00:00:00")[0] == 200
    assert stack.get("/_everwarm/invocations?function=%00%ed%a0%80&origin=%00*")[0] == 200
    assert stack.get("/_everwarm/invocations/nobody") == (404, b'{"message":"no event has the request id nobody"}')
    assert post(stack, "nobody/cancel")[0] == 404
    assert post(stack, "cancel") == (400, {"message": 'say which events: at least one filter, or {"all": true}'})
    assert post(stack, "cancel", b'{"all": 1}') == (400, {"message": "all: must be true or false"})
    assert post(stack, "cancel", b'{"state": "failed"}')[1]["message"].startswith("state: only what is queued or fed")
    assert post(stack, "cancel", b'{"function": ["f"]}')[0] == 400
    assert post(stack, "cancel", b"[" * 10_000)[0] == post(stack, "cancel", b"x" * 100_000)[0] == 400
    done = command(stack, "get", "nobody")
    assert (done.status, done.out) == (2, "")
    assert done.err == f"everwarm: server at {stack.endpoint} answers 404: no event has the request id nobody\n"
    for arguments in ((), ("id", "--all"), ("--all", "--lane", "event")):
        done = command(stack, "cancel", *arguments)
        assert done.status == 2
        assert "name a REQUEST_ID, or filters, or --all" in done.err


def test_metrics_tell_what_waits_and_what_became_of_the_rest(stack: Stack, functions: Functions) -> None:
    name = functions.python(WORK)
    wait_until_ended(stack, send(functions, name, {"n": 1}))
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    wait_until_ended(stack, send(functions, name, {"n": 2}))
    labels = {"account": ACCOUNT, "region": "us-east-1", "function": name, "lane": "event"}
    status, text = stack.get("/_everwarm/metrics")
    assert status == 200
    found = samples_in(text)
    for what, count in (("accepted", 2), ("succeeded", 1), ("failed", 1)):
        assert ("everwarm_events_total", {**labels, "what": what}, count) in found
    assert ("everwarm_event_attempts_total", {**labels, "kind": "success"}, 1) in found
    assert not [one for one in found if one[0] == "everwarm_events_queued" and one[1]["function"] == name]
