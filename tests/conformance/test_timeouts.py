"""A function's time is up: the whole tree is killed, the caller is told in AWS's words, and the next call works."""

import re
import time
from datetime import UTC, datetime

import pytest

from tests.conformance.test_results import report_of
from tests.services.calls import wait_until_handed_back
from tests.services.functions import SAMPLES, Functions
from tests.services.processes import everything
from tests.services.waiting import wait_until


@pytest.mark.parametrize("event", [{}, {"busy": True}], ids=["asleep", "busy"])
def test_a_handler_that_hangs(functions: Functions, event: dict[str, bool]) -> None:
    name = functions.sample("hang", Timeout=3)
    began = time.monotonic()
    answer = functions.invoke(name, event)
    assert 2.9 < time.monotonic() - began < 15
    assert (answer.status, answer.error, answer.version) == (200, "Unhandled", "$LATEST")
    message = f"RequestId: {answer.request_id} Error: Task timed out after 3.00 seconds"
    assert answer.body.decode() == f'{{"errorType":"Sandbox.Timedout","errorMessage":"{message}"}}'
    assert "hanging\n" in answer.log
    (stamp,) = re.findall(rf"(\S+) {answer.request_id} Task timed out after 3\.00 seconds\n\n", answer.log)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()) < 30
    report = report_of(answer.log)
    assert (report["ms"], report["billed"], report["status"]) == ("3000.00", "3000", "timeout")


def test_an_endless_loop_in_node(functions: Functions) -> None:
    source = "exports.handler = async (e) => { if (e.hang) for (;;) {} return 'fine'; };"
    name = functions.create({"index.js": source}, "index.handler", functions.runtime("node"), Timeout=3)
    assert functions.invoke(name, {}).json == "fine"
    answer = functions.invoke(name, {"hang": True})
    assert answer.json["errorType"] == "Sandbox.Timedout"
    assert functions.invoke(name, {}).json == "fine"


SOMETIMES = """
import os, time
process = os.urandom(8).hex()
def handler(event, context):
    if event == "hang":
        time.sleep(3600)
    return process
"""


def test_the_next_call_works(functions: Functions) -> None:
    name = functions.python(SOMETIMES, Timeout=3)
    before = functions.invoke(name, "").json
    assert functions.invoke(name, "hang").error == "Unhandled"
    after = functions.invoke(name, "").json
    assert after != before, "a process that timed out is not used again"
    wait_until_handed_back(functions, name)
    assert (functions.invoke(name, "").json == after) == functions.keeps_process


def test_timeouts_of_each_configuration(functions: Functions) -> None:
    name = functions.sample("hang", Timeout=1)
    functions.configure(name, Timeout=2)
    answer = functions.invoke(name, {})
    assert answer.json["errorMessage"].endswith("Error: Task timed out after 2.00 seconds")


FORKS_AND_HANGS = """
import time
import forker
def handler(event, context):
    children = forker.handler({"hold_output": event.get("hold_output", False)}, context)
    print("children:", len(children), context.log_stream_name[-32:], flush=True)
    time.sleep(3600)
"""


FORKS = """
import forker
def handler(event, context):
    forker.handler(event, context)
    return context.log_stream_name[-32:]
"""


@pytest.mark.parametrize("hold_output", [False, True])
def test_nothing_of_the_tree_is_left(functions: Functions, hold_output: bool) -> None:
    """Children that have left session and group, ignore signals, and hold the output open, die as well."""
    files = {"index.py": FORKS_AND_HANGS, "forker.py": (SAMPLES / "python" / "forker.py").read_text()}
    name = functions.create(files, "index.handler", Timeout=3)
    answer = functions.invoke(name, {"hold_output": hold_output})
    assert answer.json["errorType"] == "Sandbox.Timedout"
    (environment,) = re.findall(r"^children: 2 (\w+)$", answer.log, re.MULTILINE)
    wait_until("the children are gone", lambda: not functions.processes(environment))


def test_children_live_and_die_with_their_process(functions: Functions) -> None:
    """In a warm environment they go on between invocations; with it, or with the invocation's own process, they end."""
    files = {"index.py": FORKS, "forker.py": (SAMPLES / "python" / "forker.py").read_text()}
    name = functions.create(files, "index.handler")
    environment = functions.invoke(name, {}).json
    wait_until_handed_back(functions, name)
    if functions.keeps_process:
        assert functions.invoke(name, {"children": 0}).json == environment
        wait_until_handed_back(functions, name)
        assert len(functions.processes(environment)) >= 3, "the runtime and two children"
    else:
        wait_until("the children are gone", lambda: not functions.processes(environment))
    users = {process.uid for process in everything()} & set(functions.stack.uids)
    functions.update(name, "handler = lambda event, context: 1")
    assert functions.invoke(name, {}).json == 1
    functions.wait_until_ended(environment)
    if functions.separated and not functions.in_containers:
        (user,) = users
        wait_until("no process of their user is left", lambda: user not in {found.uid for found in everything()})


LINGERS = """
import os, signal, threading, time
process = os.urandom(8).hex()
def handler(event, context):
    if event == "linger":
        # The response is there, but the runtime asks for nothing more: it is killed when the time is up.
        threading.Thread(target=lambda: (time.sleep(0.05), os.kill(os.getpid(), signal.SIGSTOP))).start()
    return [process, context.log_stream_name[-32:]]
"""


def test_an_answer_comes_before_the_end(functions: Functions) -> None:
    """A process that stops after its response harms nobody: its answer is out, the next call gets another."""
    name = functions.python(LINGERS, Timeout=6)
    began = time.monotonic()
    first = functions.invoke(name, "linger")
    assert first.error is None
    assert time.monotonic() - began < 6
    process, environment = first.json
    wait_until("it has stopped or ended", lambda: all(one.state in "TZ" for one in functions.processes(environment)))
    second = functions.invoke(name, "")
    assert second.status == 200
    if not functions.keeps_process:
        assert second.json[0] != process
