"""Fixtures for all tests, default signals for what they start, and the check that no child process is left."""

from collections.abc import Iterator

import pytest

from tests.services import processes, signals
from tests.services.api import api, api_server, make_api
from tests.services.aws import aws_services
from tests.services.events import gate
from tests.services.postgres import own_postgres, postgres_server
from tests.services.redis import _redis_of_session, redis_server
from tests.services.s3 import s3_server
from tests.services.stack import Stack, _stacks_of_session, make_stack, own_stack, shared_stack, stack
from tests.services.up import up
from tests.services.waiting import wait_until

__all__ = [
    "_redis_of_session",
    "_stacks_of_session",
    "api",
    "api_server",
    "aws_services",
    "gate",
    "make_api",
    "make_stack",
    "own_postgres",
    "own_stack",
    "postgres_server",
    "redis_server",
    "s3_server",
    "shared_stack",
    "stack",
    "up",
]


# Before any program is started: xdist's processes and all that tests start inherit it.
signals.restore_defaults()


@pytest.fixture(autouse=True)
def _no_child_is_left(request: pytest.FixtureRequest, _stacks_of_session: dict[str, Stack]) -> Iterator[None]:
    """Children that a test starts must be gone after it; those of session fixtures may stay."""
    if "_redis_of_session" in request.fixturenames:
        request.getfixturevalue("_redis_of_session")
    before = {child.pid for child in processes.children()}
    yield
    before |= {pid for stack in _stacks_of_session.values() for pid in stack.pids()}
    # Python's own helper of multiprocessing stays until the end.
    wait_until(
        "the test's child processes are gone",
        lambda: (
            not [
                child
                for child in processes.children()
                if child.pid not in before and "multiprocessing" not in child.command
            ]
        ),
        timeout_s=5,
    )
