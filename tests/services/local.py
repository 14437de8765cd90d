"""What mode local can run on this machine."""

import functools
from typing import cast

import pytest
from mypy_boto3_lambda.literals import RuntimeType

from workers.doctor import RUNTIMES, find_runtime


@functools.cache
def _newest(family: str) -> str | None:
    found = [runtime for runtime in RUNTIMES if runtime.startswith(family) and find_runtime(runtime, {})["command"]]
    return found[-1] if found else None


def python_runtime() -> RuntimeType:
    """The newest Python that functions can use here; as root that is one every user can read."""
    found = _newest("python")
    if found is None:
        pytest.fail(find_runtime(RUNTIMES[3], {})["problem"])
    return cast("RuntimeType", found)
