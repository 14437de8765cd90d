"""The container engine itself: over TCP, not there, cut off, restarted while containers are warm; images that are missing."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.calls import Caller, caller, wait_until_quiet, wait_until_running
from tests.services.docker import REGISTRY, image, require_engine, settings_of
from tests.services.dockerd import Dockerd
from tests.services.rootless import require_rootless, rootless_engine
from tests.services.stack import Stack
from tests.services.tcp import TcpProxy
from tests.services.waiting import wait_until
from workers.engine import LABEL_WORKER, Engine

_CACHE = Path("/var/cache/everwarm-tests")


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    """The tests' engine by TCP."""
    require_engine().close()
    socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    with TcpProxy(socket) as found:
        yield found


@pytest.fixture
def own_engine() -> Iterator[Dockerd]:
    """An engine for this test alone, to restart."""
    require_engine().close()
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        words = "needs root and dockerd: run make test with EVERWARM_TEST_INSTALL=1"
        if os.environ.get("CI") == "true":
            pytest.fail(words)
        pytest.skip(words)
    with Dockerd.running(_CACHE) as engine:
        command = [sys.executable, "-P", "-m", "workers.images.build", "--registry", REGISTRY, "python3.11"]
        subprocess.run(command, env={**os.environ, "DOCKER_HOST": engine.url}, check=True, capture_output=True)
        yield engine


@pytest.fixture(scope="module")
def rootless() -> Iterator[str]:
    """A rootless engine's URL."""
    require_rootless()
    with rootless_engine() as url:
        yield url


def containers_of(stack: Stack, engine: Engine) -> int:
    names = set(stack.workers())
    return sum(one.labels[LABEL_WORKER] in names for one in engine.containers(LABEL_WORKER))


def test_an_engine_over_tcp_serves_and_comes_back(make_stack: Callable[..., Stack], proxy: TcpProxy) -> None:
    stack = make_stack(**settings_of("stay-open"), DOCKER_HOST=proxy.url)
    work = caller(stack, code="def handler(event, context):\n    return event['x'] * 2")
    size = 2_900_000
    for _ in range(2):
        answer = work(x="a" * size)
        assert answer.good
        assert answer.body == "a" * 2 * size


def test_cut_off_and_back(make_stack: Callable[..., Stack], proxy: TcpProxy) -> None:
    stack = make_stack(**settings_of("stay-open"), DOCKER_HOST=proxy.url)
    work = caller(stack)
    assert work(n=1).good
    running = work.begin(s=20)
    wait_until_running(stack)
    with Engine.connect() as engine:
        assert containers_of(stack, engine)
        proxy.cut()
        answer = running.result(10)
        assert (answer.status, answer.error) == (500, "ServiceException")
        # With nobody attached any more the containers end, as they do when a worker is killed.
        wait_until("its containers are gone", lambda: not containers_of(stack, engine), 20)
    refused = work(n=2)
    assert (refused.status, refused.error) == (500, "ServiceException")
    assert "container engine does not answer" in refused.message
    proxy.mend()
    assert work.wait_until_good(20, n=3).body["calls"] == 1
    wait_until_quiet(stack)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("kind", ["stay-open", "docker-exec"])
def test_a_restarted_daemon_costs_no_more_than_its_containers(
    make_stack: Callable[..., Stack], own_engine: Dockerd, kind: str, number: signal.Signals
) -> None:
    stack = make_stack(**settings_of(kind), DOCKER_HOST=own_engine.url)
    work: Caller = caller(stack)
    assert work(n=1).good
    own_engine.stop_daemon(number)
    answer = work(n=2)
    # A warm container of a daemon that was killed lives on, and a socket of the worker's own needs no daemon.
    lives_on = kind == "stay-open" and number == signal.SIGKILL and answer.good
    assert lives_on or (answer.status, answer.error) == (500, "ServiceException")
    own_engine.start_daemon()
    assert work.wait_until_good(30, n=3).body["calls"] == 1
    wait_until_quiet(stack)
    stack.stop("worker")
    with Engine.connect(own_engine.url) as engine:
        wait_until("no container is left", lambda: not engine.containers(LABEL_WORKER), 40)


def test_an_image_that_went_missing(make_stack: Callable[..., Stack], own_engine: Dockerd) -> None:
    """Nothing is pulled during an invocation: it says what to type, and runs once the image is there."""
    stack = make_stack(**settings_of("docker"), DOCKER_HOST=own_engine.url)
    work = caller(stack)
    assert work(n=1).good
    with Engine.connect(own_engine.url) as engine:
        name = image("python3.11")
        kept = f"{REGISTRY}/kept:now"
        engine.tag(name, kept)
        assert engine.remove_image(name)
        try:
            wait_until("it is missed", lambda: not work(n=2).good)
            missing = work(n=3)
            assert (missing.status, missing.error) == (502, "InvalidRuntimeException")
            assert f"has no image {name} for python3.11" in missing.message
            assert "everwarm images build python3.11" in missing.message
        finally:
            engine.tag(kept, name)
            engine.remove_image(kept)
    assert work.wait_until_good(10, n=4).good


def test_no_engine_at_all(make_stack: Callable[..., Stack]) -> None:
    """A worker that can't reach its engine says so and ends, for its supervisor to try again."""
    require_engine().close()
    with pytest.raises(AssertionError, match="worker ended with status 1"):
        make_stack(**settings_of("docker"), DOCKER_HOST="unix:///nowhere/docker.sock")


@pytest.mark.parametrize("kind", ["docker", "stay-open", "docker-exec"])
def test_a_rootless_daemon_serves_and_memory_is_limited(
    make_stack: Callable[..., Stack], rootless: str, kind: str
) -> None:
    """The worker is root here and the daemon is not, so code comes as layers; memory is limited by the relay, since
    nothing else does where control groups are of version 1."""
    stack = make_stack(**settings_of(kind), DOCKER_HOST=rootless)
    work = caller(stack)
    assert work(n=1).body["n"] == 1
    if kind == "stay-open":
        wait_until("it is idle", lambda: b'"idle"' in stack.get("/_everwarm/environments")[1])
    assert work(n=2).body["calls"] == (2 if kind == "stay-open" else 1)
    hungry = caller(
        stack, "hungry", memory_mb=128, code="def handler(event, context):\n    return len(b'x' * 500_000_000)"
    )
    answer = hungry()
    assert (answer.status, answer.error) == (200, "Unhandled")
    assert answer.body["errorMessage"].endswith("Error: Runtime exited with error: signal: killed")
    assert work(n=3).good
    stack.stop("worker")
    with Engine.connect(rootless) as engine:
        wait_until("no container is left", lambda: not engine.containers(LABEL_WORKER))
