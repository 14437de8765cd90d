"""The modes that the suite runs in, and the functions of a shared stack for each."""

from collections.abc import Callable, Iterator

import pytest

from tests.services.docker import REGISTRY, require_engine
from tests.services.functions import Functions
from tests.services.stack import Stack

#: Every mode must pass every test of this folder; docker-reuse by both of its channels.
MODES = {
    "local": {"EVERWARM_MODE": "local"},
    "docker": {"EVERWARM_MODE": "docker"},
    "stay-open": {"EVERWARM_MODE": "docker-reuse"},
    "docker-exec": {"EVERWARM_MODE": "docker-reuse", "LAMBDA_STAY_OPEN_MODE": "0"},
}


def settings_of(mode: str) -> dict[str, str]:
    """The environment variables of a stack in that mode; skips where it needs an engine and there is none."""
    if mode == "local":
        return {}
    require_engine()
    found = MODES[mode]
    return {**found, "LAMBDA_EXECUTOR": found["EVERWARM_MODE"], "LAMBDA_CONTAINER_REGISTRY": REGISTRY}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """The mode that runs the test's functions."""
    found: str = request.param
    return found


@pytest.fixture
def functions(mode: str, shared_stack: Callable[..., Stack]) -> Iterator[Functions]:
    """Functions on the shared stack in that mode; no container but warm ones is left after the test."""
    found = Functions(shared_stack(mode, **settings_of(mode)), mode)
    yield found
    found.wait_until_only_warm_ones_are_left()
    found.delete_all()


@pytest.fixture
def make_functions(make_stack: Callable[..., Stack], mode: str) -> Callable[..., Functions]:
    """Functions on a stack for this test alone, with settings: ``make_functions(EVERWARM_CONCURRENCY="2")``."""

    def make(**environ: str) -> Functions:
        return Functions(make_stack(**settings_of(mode), **environ), mode)

    return make
