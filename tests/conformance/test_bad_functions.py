"""Functions that harm themselves, and what is done to them from outside: a clear answer each, and the next call works."""

from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError

from tests.conformance.test_output import stored_log
from tests.services.calls import start_call, wait_until_handed_back, wait_until_running
from tests.services.functions import Functions

MakeFunctions = Callable[..., Functions]

FILLS = """
import os, tempfile, time
def handler(event, context):
    folder = tempfile.gettempdir()
    before = os.listdir(folder)
    for number in range(event.get("files", 0)):
        file = os.open(f"{folder}/{number}", os.O_CREAT | os.O_WRONLY)
        os.posix_fallocate(file, 0, 100 << 20)
    time.sleep(event.get("s", 0))
    return before
"""


def test_a_full_tmp_ends_the_environment_and_not_the_next_one(functions: Functions) -> None:
    name = functions.python(FILLS, Timeout=30)
    assert functions.invoke(name, {"files": 2, "s": 1.5}).error is None
    wait_until_handed_back(functions, name)
    answer = functions.invoke(name, {"files": 7, "s": 25})
    assert (answer.status, answer.error) == (200, "Unhandled")
    message = (
        f"RequestId: {answer.request_id} Error: No space left on device: /tmp holds more than 512 MB (EphemeralStorage)"
    )
    assert answer.body.decode() == f'{{"errorType":"Runtime.ExitError","errorMessage":"{message}"}}'
    assert f"{message}\nRuntime.ExitError\n" in answer.log
    assert functions.invoke(name, {}).json == [], "the next one has a /tmp of its own"


def test_more_tmp_on_request(functions: Functions) -> None:
    name = functions.python(FILLS, Timeout=30, EphemeralStorage={"Size": 1024})
    assert functions.invoke(name, {"files": 7, "s": 1.5}).error is None


def test_a_function_may_make_ten_thousand_files(functions: Functions) -> None:
    name = functions.python("""
def handler(event, context):
    files = []
    try:
        for _ in range(10_000):
            files.append(open("/dev/null"))
    except OSError as error:
        return [len(files), error.strerror]
    return len(files)
""")
    number, reason = functions.invoke(name, {}).json
    assert 900 < number <= 1024
    assert reason == "Too many open files"
    assert functions.invoke(name, {}).error is None


def test_memory_eaten_at_import(functions: Functions) -> None:
    source = "block = b'x' * 1_500_000_000\nhandler = lambda event, context: 1"
    name = functions.python(source, MemorySize=128)
    for _ in range(2):
        answer = functions.invoke(name, {})
        assert (answer.status, answer.error) == (200, "Unhandled")
        message = f"RequestId: {answer.request_id} Error: Runtime exited with error: signal: killed"
        assert answer.body.decode() == f'{{"errorType":"Runtime.ExitError","errorMessage":"{message}"}}'
        assert "Max Memory Used: 128 MB\t" in answer.log


KILLED = """
import os, signal, time
def handler(event, context):
    if event == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if event == "eat":
        return len(b"x" * 1_500_000_000)
    return event
"""


def test_a_kill_is_not_taken_for_the_memory_that_another_call_ate(functions: Functions) -> None:
    name = functions.python(KILLED, MemorySize=256)
    assert "Max Memory Used: 256 MB\t" in functions.invoke(name, "eat").log
    functions.wait_until_only_warm_ones_are_left()
    answer = functions.invoke(name, "kill")
    assert answer.json["errorMessage"].endswith("signal: killed")
    assert "Max Memory Used: 256 MB\t" not in answer.log
    assert functions.invoke(name, 1).json == 1


SLEEPS = """
import time
def handler(event, context):
    time.sleep(event)
    return event
"""


def test_killed_from_outside_during_a_call(functions: Functions) -> None:
    """A process: the function's own end. A container: the platform's fault. Neither is run again."""
    name = functions.python(SLEEPS)
    running = start_call(functions, name, 15)
    wait_until_running(functions, name)
    (record,) = functions.environments(name)
    functions.kill(record["id"])
    if functions.in_containers:
        with pytest.raises(ClientError) as caught:
            running.result(10)
        assert caught.value.response["Error"]["Code"] == "ServiceException"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    else:
        assert running.result(10).json["errorMessage"].endswith("Error: Runtime exited with error: signal: killed")
    last = functions.invoke(name, 0)
    assert last.json == 0
    log = stored_log(functions, name, last.request_id)
    assert log.count(b"START RequestId: ") == 2
    functions.wait_until_ended(record["id"])


def test_a_function_without_a_network_is_still_called(make_functions: MakeFunctions) -> None:
    """The link needs none: 6 MB both ways, and calls of this server's own API."""
    functions = make_functions(LAMBDA_DOCKER_NETWORK="none")
    name = functions.sample("echo", MemorySize=512)
    payload = b'"' + b"x" * (6_291_556 - 2) + b'"'
    assert functions.invoke(name, Payload=payload).body == payload
    found = functions.invoke(functions.sample("invokes"), {"function": name, "payload": {"a": 1}}).json
    assert found == {"status": 200, "body": {"a": 1}}
    if functions.in_containers:
        interfaces = functions.python("import socket\nhandler = lambda *_: [name for _, name in socket.if_nameindex()]")
        assert functions.invoke(interfaces, {}).json == ["lo"]
