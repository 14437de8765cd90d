"""Environments: as many as calls run at a time, kept warm, expired when idle, replaced with the function."""

import json
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.services.calls import start_call, states, wait_until_handed_back, wait_until_idle, wait_until_running
from tests.services.functions import SAMPLES, Functions
from tests.services.processes import everything
from tests.services.waiting import wait_until

MakeFunctions = Callable[..., Functions]
#: Answers with what tells one process from another, its number of calls so far, a word, and the environment's id.
SLEEPS = """
import itertools, os, time
process = os.urandom(8).hex()
calls = itertools.count(1)
def handler(event, context):
    time.sleep(event.get("s", 0))
    return [process, next(calls), "WORD", context.log_stream_name[-32:]]
"""


def test_one_after_the_other_share_one(functions: Functions) -> None:
    """One process, or one environment with a process for each, or one of each for each."""
    name = functions.python(SLEEPS)
    number = functions.times(5)
    found = []
    for _ in range(number):
        found.append(functions.invoke(name, {}).json)
        wait_until_handed_back(functions, name)
    assert [count for _, count, *_ in found] == (
        list(range(1, number + 1)) if functions.keeps_process else [1] * number
    )
    assert len({process for process, *_ in found}) == (1 if functions.keeps_process else number)
    assert len({environment for *_, environment in found}) == (1 if functions.keeps_environment else number)
    if not functions.keeps_environment:
        for *_, environment in found:
            functions.wait_until_ended(environment)
        return
    (record,) = functions.environments(name)
    assert record["version"] == "$LATEST"
    assert record["mode"] == functions.mode
    assert record["id"] == found[0][3]
    assert abs(record["last_use"] / 1000 - time.time()) < 30
    assert [one.id[:12] for one in functions.containers(name)] == [record["container"]] * functions.in_containers


def test_at_a_time_each_has_its_own(functions: Functions) -> None:
    name = functions.python(SLEEPS)
    number = 4 if functions.in_containers else 6
    with ThreadPoolExecutor(number) as threads:
        first = list(threads.map(lambda _: functions.invoke(name, {"s": 2}), range(number)))
    assert len({answer.json[0] for answer in first}) == number
    assert {answer.json[1] for answer in first} == {1}
    environments = {answer.json[3] for answer in first}
    assert len(environments) == number
    if not functions.keeps_environment:
        wait_until_idle(functions, name, 0)
        return
    wait_until_idle(functions, name, number)
    with ThreadPoolExecutor(number) as threads:
        again = list(threads.map(lambda _: functions.invoke(name, {"s": 0.3}), range(number)))
    assert {answer.json[3] for answer in again} <= environments, "warm ones are used again"


def test_different_functions_start_at_the_same_time(functions: Functions) -> None:
    names = [functions.python("import time\ntime.sleep(2)\nhandler = lambda event, context: 1") for _ in range(4)]
    began = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        assert [answer.json for answer in threads.map(lambda name: functions.invoke(name, {}), names)] == [1] * 4
    assert time.monotonic() - began < 7.5


def test_functions_do_not_share(functions: Functions) -> None:
    one, other = functions.python(SLEEPS), functions.python(SLEEPS)
    assert functions.invoke(one, {}).json[3] != functions.invoke(other, {}).json[3]


def test_idle_environments_expire(make_functions: MakeFunctions) -> None:
    functions = make_functions(LAMBDA_KEEPALIVE_MS="6000")
    name = functions.python(SLEEPS)
    first = functions.invoke(name, {}).json
    if functions.keeps_environment:
        wait_until_idle(functions, name)
        # A call in time keeps it; and while one runs for longer than that, it is not idle.
        assert functions.invoke(name, {"s": 8}).json[3] == first[3]
        wait_until_idle(functions, name)
        kept = functions.invoke(name, {}).json
        assert kept[3] == first[3]
        assert kept[1] == (3 if functions.keeps_process else 1)
    ended = time.monotonic()
    wait_until("the environment is gone", lambda: functions.environments(name) == [], 20)
    assert time.monotonic() - ended > 1.0 or not functions.keeps_environment
    functions.wait_until_ended(first[3])
    wait_until("all are gone", lambda: not [p for p in everything() if p.uid in functions.stack.uids])
    assert functions.invoke(name, {}).json[1] == 1


def test_keepalive_zero_keeps_nothing(make_functions: MakeFunctions) -> None:
    functions = make_functions(LAMBDA_KEEPALIVE_MS="0")
    name = functions.python(SLEEPS)
    found = [functions.invoke(name, {}).json for _ in range(3)]
    assert {count for _, count, *_ in found} == {1}
    assert len({environment for *_, environment in found}) == 3
    wait_until("all are gone", lambda: functions.environments(name) == [])
    functions.wait_until_ended(found[-1][3])


def test_a_running_call_finishes_on_the_old_code(functions: Functions) -> None:
    name = functions.python(SLEEPS)
    before = functions.invoke(name, {}).json
    wait_until_handed_back(functions, name)
    running = start_call(functions, name, {"s": 8})
    wait_until_running(functions, name)
    functions.update(name, SLEEPS.replace("WORD", "NEW"))
    after = functions.invoke(name, {}).json
    assert after[1:3] == [1, "NEW"]
    assert not running.done(), "the new code did not wait for the old"
    if functions.keeps_environment:
        wait_until("it is handed back", lambda: "idle" in states(functions, name))
    answer = running.result(20)
    assert (answer.error, answer.json[2]) == (None, "WORD")
    assert (answer.json[3] == before[3]) == functions.keeps_environment
    assert (answer.json[0] == before[0]) == functions.keeps_process
    again = functions.invoke(name, {}).json
    assert again[2] == "NEW"
    assert (again[:2] == [after[0], 2]) == functions.keeps_process
    wait_until_handed_back(functions, name)
    functions.wait_until_ended(answer.json[3])


def test_a_new_configuration_replaces_idle_ones(functions: Functions) -> None:
    name = functions.python(SLEEPS)
    before = functions.invoke(name, {}).json[3]
    functions.configure(name, Timeout=9)
    assert functions.invoke(name, {}).json[3] != before
    functions.wait_until_ended(before)


def test_a_function_deleted_while_it_runs(functions: Functions) -> None:
    name = functions.python(SLEEPS)
    running = start_call(functions, name, {"s": 6})
    wait_until_running(functions, name)
    functions.client.delete_function(FunctionName=name)
    assert functions.refused(name, {})[:2] == ("ResourceNotFoundException", 404)
    assert not running.done()
    assert running.result(20).json[1:3] == [1, "WORD"]


def test_a_name_used_again_starts_afresh(functions: Functions) -> None:
    name = functions.python(SLEEPS)
    before = functions.invoke(name, {}).json
    functions.client.delete_function(FunctionName=name)
    functions.python(SLEEPS.replace("WORD", "SECOND"), FunctionName=name)
    after = functions.invoke(name, {}).json
    assert after[1:3] == [1, "SECOND"]
    assert after[3] != before[3]


def test_an_environment_that_dies_while_idle(functions: Functions) -> None:
    """It is taken out of service without being asked, and the next call gets another one."""
    name = functions.python(SLEEPS)
    environment = functions.invoke(name, {}).json[3]
    if functions.keeps_environment:
        wait_until_idle(functions, name)
        functions.kill(environment)
    wait_until("the environment is gone", lambda: functions.environments(name) == [])
    answer = functions.invoke(name, {})
    assert answer.error is None
    assert answer.json[1] == 1
    assert answer.json[3] != environment
    wait_until_handed_back(functions, name)


EXITS_LATER = """
import os, threading, time
process = os.urandom(8).hex()
def handler(event, context):
    if event == "exit":
        threading.Timer(0.05, os._exit, [3]).start()
    return [process, context.log_stream_name[-32:]]
"""


def test_an_end_after_the_response_is_silent(functions: Functions) -> None:
    name = functions.python(EXITS_LATER)
    first = functions.invoke(name, "exit")
    assert first.error is None
    wait_until("it has ended", lambda: not functions.processes(first.json[1]))
    second = functions.invoke(name, "")
    assert (second.error, second.json[0] != first.json[0]) == (None, True)


def test_tmp_is_kept_and_private(functions: Functions) -> None:
    name = functions.sample("writes_tmp")
    first = functions.invoke(name, {"name": "a"}).json
    wait_until_handed_back(functions, name)
    second = functions.invoke(name, {"name": "b"}).json
    assert "a" not in first["before"]
    assert ("a" in second["before"]) == functions.keeps_environment
    if functions.in_containers:
        assert (second["folder"], second["mode"]) == ("/tmp", "0o777")
    else:
        assert (second["folder"], second["mode"]) == (first["folder"], "0o700")
    other = functions.invoke(functions.sample("writes_tmp"), {"name": "c"}).json
    assert not {"a", "b"} & set(other["before"])


def test_slash_tmp_is_private(functions: Functions) -> None:
    source = """
import os, pathlib
def handler(event, context):
    before = os.listdir("/tmp")
    pathlib.Path("/tmp/everwarm-conformance").write_text("mine")
    return before
"""
    if not functions.separated:
        pytest.skip("needs root: otherwise functions share the worker's /tmp")
    one, other = functions.python(source), functions.python(source)
    assert functions.invoke(one, {}).json == []
    wait_until_handed_back(functions, one)
    assert functions.invoke(one, {}).json == (["everwarm-conformance"] if functions.keeps_environment else [])
    assert functions.invoke(other, {}).json == []
    assert not Path("/tmp/everwarm-conformance").exists()


def test_code_is_read_only(functions: Functions) -> None:
    if not functions.separated:
        pytest.skip("needs root: otherwise the code belongs to the worker's user, who runs it")
    name = functions.python("""
import os, pathlib
def handler(event, context):
    root = pathlib.Path(os.environ["LAMBDA_TASK_ROOT"])
    found = []
    for place in (root / "new", root / "index.py"):
        try:
            place.write_text("changed")
            found.append("written")
        except OSError as error:
            found.append(type(error).__name__)
    return found
""")
    found = functions.invoke(name, {}).json
    assert "written" not in found


def test_a_functions_memory_is_limited(functions: Functions) -> None:
    name = functions.python((SAMPLES / "python" / "memory_hog.py").read_text(), MemorySize=128, Timeout=30)
    assert functions.invoke(name, {"mb": 10}).body == b"10"
    answer = functions.invoke(name, {"mb": 1500})
    assert (answer.status, answer.error) == (200, "Unhandled")
    message = f"RequestId: {answer.request_id} Error: Runtime exited with error: signal: killed"
    assert answer.body.decode() == f'{{"errorType":"Runtime.ExitError","errorMessage":"{message}"}}'
    assert "Max Memory Used: 128 MB\t" in answer.log
    assert functions.invoke(name, {"mb": 10}).body == b"10"


def test_the_memory_figure_is_real(functions: Functions) -> None:
    name = functions.sample("memory_hog", MemorySize=512)
    used = []
    for mb in (1, 100, 200):
        (figure,) = [
            word.split()[-2] for word in functions.invoke(name, {"mb": mb}).log.split("\t") if "Max Memory" in word
        ]
        used.append(int(figure))
    assert 5 < used[0] < 60
    assert 100 <= used[1] < 160
    assert 200 <= used[2] < 260


def test_the_page_is_one_json_document(functions: Functions) -> None:
    with urllib.request.urlopen(functions.stack.endpoint + "/_everwarm/environments") as response:
        assert response.headers["content-type"] == "application/json"
        assert isinstance(json.load(response)["environments"], list)
