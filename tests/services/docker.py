"""The container engine that the tests run with (``tests.services.engine`` has brought it), and what must hold on it."""

import functools
import hashlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from docker.errors import APIError

from tests.services.waiting import wait_until
from workers.engine import LABEL_INSTALLATION, LABEL_WORKER, Container, Engine, EngineError
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


@functools.cache
def connection() -> Engine:
    """One for the whole run; only where there is an engine."""
    return Engine.connect()


def installation(secret: bytes) -> str:
    """The label of the containers of all workers that share a secret."""
    return hashlib.sha256(b"everwarm installation\n" + secret).hexdigest()[:12]


def containers_of(installation: str) -> list[Container]:
    """All containers of an Everwarm's workers: of functions, and those that hold network namespaces."""
    return [
        container
        for container in connection().containers(f"{LABEL_INSTALLATION}={installation}")
        if LABEL_WORKER in container.labels
    ]


class Running(NamedTuple):
    """A process in a container."""

    state: str
    """As ``ps`` shows it: ``S``, ``T``, ``Z`` …"""
    command: str


def processes_in(container: str) -> list[Running]:
    """Everything that runs in a container but relays; empty when it is gone."""
    try:
        found = client().top(container, ps_args="-eo pid,stat,args")["Processes"] or ()
    except APIError:
        return []
    running = [Running(state[:1], command) for _, state, command in found]
    return [one for one in running if not one.command.startswith(("/.everwarm-relay", "everwarm-relay"))]


def client() -> Any:
    """Docker's own client, for what Everwarm never does to a container: ``client().pause(id)``."""
    return connection()._api


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """One connection for the session."""
    found = require_engine()
    yield found
    found.close()


@pytest.fixture
def no_container_is_left(engine: Engine) -> Iterator[None]:
    """Fails when the test leaves a container of a worker that was not there before."""
    before = {container.id for container in engine.containers(LABEL_WORKER)}

    def left() -> list[Container]:
        return [container for container in engine.containers(LABEL_WORKER) if container.id not in before]

    yield
    try:
        wait_until("the test's containers are gone", lambda: not left(), 10)
    except AssertionError:
        names = [f"{container.name} ({container.state})" for container in left()]
        raise AssertionError(f"containers left after the test: {names}") from None


#: The kinds of environments, docker-reuse by both of its channels, and the settings of a worker of each.
KINDS = {
    "local": {"EVERWARM_MODE": "local"},
    "docker": {"EVERWARM_MODE": "docker"},
    "stay-open": {"EVERWARM_MODE": "docker-reuse"},
    "docker-exec": {"EVERWARM_MODE": "docker-reuse", "LAMBDA_STAY_OPEN_MODE": "0"},
}


def settings_of(kind: str) -> dict[str, str]:
    """The environment variables of a stack of that kind; skips where it needs an engine and there is none."""
    if kind == "local":
        return {}
    require_engine().close()
    found = KINDS[kind]
    return {**found, "LAMBDA_EXECUTOR": found["EVERWARM_MODE"], "LAMBDA_CONTAINER_REGISTRY": REGISTRY}
