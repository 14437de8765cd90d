"""Environments that can't be made: the caller is told, and nothing is left behind."""

import os
from collections.abc import Callable

import pytest

from tests.services.functions import Functions
from tests.services.stack import Stack
from tests.services.waiting import wait_until


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: otherwise there are no user ids to run out of")
def test_no_user_id_is_left(make_stack: Callable[..., Stack]) -> None:
    # One for the code, one for the place that is made in advance, none for the next.
    functions = Functions(make_stack(EVERWARM_LOCAL_UIDS="1790000000-1790000001"))
    one, other = functions.sample("echo"), functions.sample("context")
    assert functions.invoke(one, 1).json == 1
    code, status, answer = functions.refused(other, {})
    assert (code, status) == ("ServiceException", 500)
    assert "EVERWARM_LOCAL_UIDS" in str(answer)
    functions.client.delete_function(FunctionName=one)
    wait_until("its environment is gone", lambda: not functions.environments(one))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: otherwise functions fill the machine's own /tmp")
def test_a_deep_tmp_does_not_keep_an_id(make_stack: Callable[..., Stack]) -> None:
    """Two ids: when the first environment's were not given back, the next could not start."""
    functions = Functions(make_stack(EVERWARM_LOCAL_UIDS="1790000010-1790000012", LAMBDA_KEEPALIVE_MS="0"))
    name = functions.python("""
import os
def handler(event, context):
    os.chdir("/tmp")
    for _ in range(1500):
        os.mkdir("deep")
        os.chdir("deep")
    return os.getpid()
""", Timeout=20)  # fmt: skip
    pids: set[int] = set()

    def again() -> bool:
        try:
            pids.add(functions.invoke(name, {}).json)
        except functions.client.exceptions.ServiceException:
            return False
        return len(pids) == 3

    wait_until("three environments came and went", again, 20)
