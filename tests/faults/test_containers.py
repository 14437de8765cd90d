"""A container killed, paused or removed by hand: while it is idle the call runs elsewhere, once; during a call it ends that."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from botocore.exceptions import ClientError
from docker.errors import APIError

from tests.conformance.test_output import stored_log
from tests.services import docker
from tests.services.calls import start_call, wait_until_handed_back, wait_until_running
from tests.services.docker import settings_of
from tests.services.functions import Functions
from tests.services.stack import Stack
from tests.services.waiting import wait_until
from workers.engine import LABEL_ENVIRONMENT

#: Answers with its environment's id.
SOURCE = """
import time
def handler(event, context):
    time.sleep(event.get("s", 0))
    return context.log_stream_name[-32:]
"""


@pytest.fixture
def functions(kind: str, shared_stack: Callable[..., Stack]) -> Functions:
    """Functions on a shared stack of that kind."""
    return Functions(shared_stack(f"{kind} with broken containers", **settings_of(kind)), kind)


def container_of(environment: str) -> str:
    (found,) = docker.connection().containers(f"{LABEL_ENVIRONMENT}={environment}")
    return found.id


def stop(container: str) -> None:
    docker.client().stop(container, timeout=1)


def kill(container: str) -> None:
    docker.client().kill(container)


def remove(container: str) -> None:
    docker.client().remove_container(container, force=True)


def pause(container: str) -> None:
    def paused() -> bool:
        # runc can fail to freeze a container whose processes are just forking.
        with suppress(APIError):
            docker.client().pause(container)
        return docker.connection().state(container) == "paused"

    wait_until("the container is paused", paused)


def once(functions: Functions, name: str, calls: int, last: str) -> None:
    """As many invocations were begun as there were calls."""
    assert stored_log(functions, name, last).count(b"START RequestId: ") == calls


@pytest.mark.parametrize("harm", [stop, kill, remove, pause])
@pytest.mark.parametrize("kind", ["stay-open", "docker-exec"])
def test_a_container_harmed_while_idle_is_replaced(functions: Functions, harm: Callable[[str], None]) -> None:
    name = functions.python(SOURCE)
    first = functions.invoke(name, {}).json
    wait_until_handed_back(functions, name)
    harm(container_of(first))
    answer = functions.invoke(name, {})
    assert answer.error is None
    assert answer.json != first
    once(functions, name, 2, answer.request_id)
    functions.wait_until_ended(first)
    wait_until_handed_back(functions, name)
    assert functions.invoke(name, {}).json == answer.json, "the pool is healthy"
    functions.wait_until_only_warm_ones_are_left()


@pytest.mark.parametrize("harm", [kill, remove])
@pytest.mark.parametrize("kind", ["docker", "stay-open", "docker-exec"])
def test_harmed_during_a_call(functions: Functions, harm: Callable[[str], None]) -> None:
    name = functions.python(SOURCE)
    running = start_call(functions, name, {"s": 15})
    wait_until_running(functions, name)
    (record,) = functions.environments(name)
    harm(container_of(record["id"]))
    with pytest.raises(ClientError) as caught:
        running.result(10)
    assert caught.value.response["Error"]["Code"] == "ServiceException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    answer = functions.invoke(name, {})
    assert (answer.error, answer.json != record["id"]) == (None, True)
    once(functions, name, 2, answer.request_id)
    functions.wait_until_ended(record["id"])
    functions.wait_until_only_warm_ones_are_left()


@pytest.mark.parametrize("kind", ["docker", "stay-open", "docker-exec"])
def test_paused_during_a_call(functions: Functions) -> None:
    """The function's timeout holds whatever the container does."""
    name = functions.python(SOURCE, Timeout=8)
    running = start_call(functions, name, {"s": 7})
    wait_until_running(functions, name)
    (record,) = functions.environments(name)
    pause(container_of(record["id"]))
    answer = running.result(30)
    assert (answer.error, answer.json["errorType"]) == ("Unhandled", "Sandbox.Timedout")
    again = functions.invoke(name, {})
    assert again.error is None, again.json
    assert again.json != record["id"]
    once(functions, name, 2, again.request_id)
    functions.wait_until_ended(record["id"])
    functions.wait_until_only_warm_ones_are_left()
