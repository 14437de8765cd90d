"""The modes that the suite runs in, and the functions of a shared stack that serves them."""

from collections.abc import Callable

import pytest

from tests.services.functions import Functions
from tests.services.stack import Stack

#: Every mode must pass every test of this folder.
MODES = ("local",)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """The mode that runs the test's functions."""
    found: str = request.param
    return found


@pytest.fixture
def functions(stack: Stack, mode: str) -> Functions:
    """Functions on the shared stack in that mode."""
    return Functions(stack, mode)


@pytest.fixture
def make_functions(make_stack: Callable[..., Stack], mode: str) -> Callable[..., Functions]:
    """Functions on a stack for this test alone, with settings: ``make_functions(EVERWARM_CONCURRENCY="2")``."""

    def make(**environ: str) -> Functions:
        return Functions(make_stack(**environ), mode)

    return make
