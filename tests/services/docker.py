"""The container engine that the tests run with (``tests.services.engine`` has brought it), and what must hold on it."""

import os
from collections.abc import Iterator

import pytest

from tests.services.waiting import wait_until
from workers import containers
from workers.containers import Container, Engine, EngineError
from workers.images.names import image_of

#: What the names of the tests' runtime images begin with: a setting for stacks, LAMBDA_CONTAINER_REGISTRY.
REGISTRY = os.environ.get("EVERWARM_TEST_REGISTRY", "everwarm.test/lambda")


def image(runtime: str) -> str:
    """The tests' image of a runtime."""
    return image_of(runtime, REGISTRY)


def require_engine() -> Engine:
    """An engine that has the runtime images. Where there is none the test is skipped with the command to type; in CI it fails."""
    why = "this is no run of make test"
    if os.environ.get("EVERWARM_TEST_ENGINE") == "1":
        try:
            return Engine.connect()
        except EngineError as error:
            why = str(error)
    words = (
        f"no container engine with runtime images ({why}); type: python -m tests.services.engine -- python -m pytest, "
        "or EVERWARM_TEST_INSTALL=1 make test"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(words)
    pytest.skip(words)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """One connection for the session."""
    found = require_engine()
    yield found
    found.close()


@pytest.fixture
def no_container_is_left(engine: Engine) -> Iterator[None]:
    """Fails when the test leaves a container of a worker that was not there before."""
    before = {container.id for container in engine.containers(containers.WORKER)}

    def left() -> list[Container]:
        return [container for container in engine.containers(containers.WORKER) if container.id not in before]

    yield
    try:
        wait_until("the test's containers are gone", lambda: not left(), 10)
    except AssertionError:
        names = [f"{container.name} ({container.state})" for container in left()]
        raise AssertionError(f"containers left after the test: {names}") from None
