"""The modes that the suite runs in, and the functions of a shared stack for each."""

from collections.abc import Callable, Iterator

import pytest

from tests.services.docker import KINDS, settings_of
from tests.services.functions import Functions
from tests.services.stack import Stack


@pytest.fixture(params=KINDS)
def mode(request: pytest.FixtureRequest) -> str:
    """The mode that runs the test's functions; docker-reuse by both of its channels. All must pass every test of this folder."""
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
def make_functions(make_stack: Callable[..., Stack], mode: str) -> Iterator[Callable[..., Functions]]:
    """Functions on a stack for this test alone, with settings: ``make_functions(EVERWARM_CONCURRENCY="2")``."""
    made: list[Functions] = []

    def make(**environ: str) -> Functions:
        made.append(Functions(make_stack(**settings_of(mode), **environ), mode))
        return made[-1]

    yield make
    for found in made:
        found.wait_until_only_warm_ones_are_left()
