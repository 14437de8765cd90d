"""Reserved and account concurrency, exactly; and calls that wait for a slot of a full pool."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from tests.services.calls import start_call, wait_until_handed_back, wait_until_running
from tests.services.functions import Functions
from tests.services.waiting import wait_until

MakeFunctions = Callable[..., Functions]
RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"
ACCOUNT = "ConcurrentInvocationLimitExceeded"


def outcome(functions: Functions, name: str, seconds: float) -> str:
    """``ran``, or the reason of the 429."""
    try:
        answer = functions.invoke(name, {"seconds": seconds})
    except ClientError as error:
        assert error.response["Error"]["Code"] == "TooManyRequestsException"
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 429
        return str(error.response["Reason"])  # type: ignore[typeddict-item]
    assert answer.error is None
    return "ran"


def outcomes(functions: Functions, names: list[str], seconds: float) -> list[str]:
    """All at a time, one for each name in the list."""
    with ThreadPoolExecutor(len(names)) as threads:
        return sorted(threads.map(lambda name: outcome(functions, name, seconds), names))


def test_reserved_concurrency_is_kept_exactly(functions: Functions) -> None:
    name = functions.sample("sleeps")
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=3)
    assert outcomes(functions, [name] * 8, 1.5) == [RESERVED] * 5 + ["ran"] * 3
    assert outcomes(functions, [name] * 3, 0.1) == ["ran"] * 3, "every slot is free again"


def test_one_at_a_time(functions: Functions) -> None:
    name = functions.sample("sleeps")
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    running = start_call(functions, name, {"seconds": 5})
    wait_until_running(functions, name)
    assert outcome(functions, name, 0) == RESERVED
    running.result(20)
    assert outcome(functions, name, 0) == "ran"


def test_a_function_with_no_concurrency_is_never_run(functions: Functions) -> None:
    name = functions.sample("sleeps")
    assert outcome(functions, name, 0) == "ran"
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    assert outcome(functions, name, 0) == RESERVED
    functions.client.delete_function_concurrency(FunctionName=name)
    assert outcome(functions, name, 0) == "ran"


def test_a_refusal_is_awss_to_the_byte(functions: Functions) -> None:
    name = functions.sample("sleeps")
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    url = f"{functions.stack.endpoint}/2015-03-31/functions/{name}/invocations"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, b"{}", method="POST"))
    with caught.value as refusal:
        assert refusal.code == 429
        assert refusal.headers["x-amzn-errortype"] == "TooManyRequestsException"
        assert refusal.headers["content-type"] == "application/json"
        assert int(refusal.headers["Retry-After"]) >= 1
        assert json.loads(refusal.read()) == {"Reason": RESERVED, "Type": "User", "message": "Rate Exceeded."}


def test_changes_act_at_once_and_end_nothing(functions: Functions) -> None:
    name = functions.sample("sleeps")
    running = [start_call(functions, name, {"seconds": 2}) for _ in range(2)]
    wait_until_running(functions, name, 2)
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    assert outcome(functions, name, 0) in {"ran", RESERVED}
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    assert outcome(functions, name, 0) == RESERVED
    assert [call.result(20).body for call in running] == [b"2", b"2"], "what runs is not ended"
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=2)
    assert outcomes(functions, [name] * 3, 1) == [RESERVED, "ran", "ran"]
    functions.client.delete_function_concurrency(FunctionName=name)
    assert outcomes(functions, [name] * 3, 0.5) == ["ran"] * 3


def test_a_version_counts_with_its_function(functions: Functions) -> None:
    name = functions.sample("sleeps")
    functions.client.publish_version(FunctionName=name)
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    running = start_call(functions, name, {"seconds": 5}, Qualifier="1")
    wait_until(
        "version 1 runs",
        lambda: [e for e in functions.environments(name) if (e["version"], e["state"]) == ("1", "leased")],
    )
    assert outcome(functions, name, 0) == RESERVED
    running.result(20)


@pytest.mark.parametrize("end", ["timeout", "exit", "raise", "init"])
def test_a_slot_is_free_however_a_call_ended(functions: Functions, end: str) -> None:
    name = functions.python(
        "import os, time\n"
        + ("raise ValueError\n" if end == "init" else "")
        + "def handler(event, context):\n"
        + {
            "timeout": "    time.sleep(60)",
            "exit": "    os._exit(1)",
            "raise": "    raise ValueError",
            "init": "    pass",
        }[end],
        Timeout=1,
    )
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    for _ in range(2):
        assert functions.invoke(name, {}).error == "Unhandled"


def test_account_concurrency_is_kept_exactly(make_functions: MakeFunctions) -> None:
    functions = make_functions(
        LAMBDA_LIMITS_CONCURRENT_EXECUTIONS="4", LAMBDA_LIMITS_MINIMUM_UNRESERVED_CONCURRENCY="1"
    )
    one, other, reserved = (functions.sample("sleeps") for _ in range(3))
    assert outcomes(functions, [one] * 4 + [other] * 3, 2) == [ACCOUNT] * 3 + ["ran"] * 4
    # What is reserved for one function is taken from all others, and only that function can use it.
    functions.client.put_function_concurrency(FunctionName=reserved, ReservedConcurrentExecutions=3)
    found = outcomes(functions, [one] * 2 + [reserved] * 5, 2)
    assert found == [ACCOUNT] + [RESERVED] * 2 + ["ran"] * 4
    # Another account has its own.
    client = functions.stack.client("222222222222")
    assert client.get_account_settings()["AccountLimit"]["ConcurrentExecutions"] == 4
    functions.client.delete_function_concurrency(FunctionName=reserved)
    assert outcomes(functions, [one] * 5, 1) == [ACCOUNT] + ["ran"] * 4


def test_a_chain_deeper_than_the_pool_does_not_deadlock(make_functions: MakeFunctions, mode: str) -> None:
    wait_s = 1 if mode == "local" else 3  # a slot is free again when its container is handed back
    functions = make_functions(EVERWARM_CONCURRENCY="2", EVERWARM_SYNC_QUEUE_WAIT_S=str(wait_s))
    name = functions.sample("invokes", Timeout=30)
    assert functions.invoke(name, {"depth": 1}).json == {"status": 200, "body": {"depth": 0}}
    wait_until_handed_back(functions, name)
    began = time.monotonic()
    found = functions.invoke(name, {"depth": 5}).json
    assert time.monotonic() - began < wait_s + 8
    assert found["status"] == 200
    refusal = found["body"]
    assert refusal["status"] == 429
    assert refusal["body"]["Type"] == "User"
    assert refusal["body"]["message"] == "Rate Exceeded."
    # And the pool is free again.
    assert functions.invoke(name, {"depth": 1}).json == {"status": 200, "body": {"depth": 0}}


def test_calls_wait_for_a_slot_for_a_while(make_functions: MakeFunctions, mode: str) -> None:
    # As long as a few cold starts take.
    wait_s = 4 if mode == "local" else 6
    functions = make_functions(EVERWARM_CONCURRENCY="1", EVERWARM_SYNC_QUEUE_WAIT_S=str(wait_s))
    name = functions.sample("sleeps", Timeout=30)
    assert outcome(functions, name, 0) == "ran"
    together = 3 if functions.keeps_process else 2
    assert outcomes(functions, [name] * together, 0.1) == ["ran"] * together
    long = start_call(functions, name, {"seconds": wait_s + 4})
    wait_until_running(functions, name)
    began = time.monotonic()
    assert outcome(functions, name, 0) == ACCOUNT
    assert wait_s - 1 < time.monotonic() - began < wait_s + 3
    assert long.result(20).json == wait_s + 4
    assert outcome(functions, name, 0) == "ran"
