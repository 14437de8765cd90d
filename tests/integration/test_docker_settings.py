"""The settings that concern containers, each seen from inside one or on the engine."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.docker import REGISTRY, image, require_engine, settings_of
from tests.services.functions import Functions
from tests.services.image_functions import make_static_image
from tests.services.stack import Stack
from tests.services.waiting import wait_until
from workers.engine import LABEL_FUNCTION, LABEL_LAYER, LABEL_WORKER, Engine

Make = Callable[..., Functions]

LOOKS = """
import os, pathlib, socket
def handler(event, context):
    return eval(event)
"""


@pytest.fixture
def engine() -> Iterator[Engine]:
    with require_engine() as found:
        yield found


@pytest.fixture
def make(make_stack: Callable[..., Stack]) -> Make:
    """Functions on a stack of its own: ``make("stay-open", LAMBDA_DOCKER_DNS="…")``."""

    def of(kind: str = "stay-open", **environ: str) -> Functions:
        return Functions(make_stack(**{**settings_of(kind), **environ}), kind)

    return of


def ask(functions: Functions, name: str, expression: str) -> Any:
    answer = functions.invoke(name, expression)
    assert answer.error is None, answer.body
    return answer.json


def inspected(functions: Functions, engine: Engine, name: str) -> dict[str, Any]:
    """What the engine knows of the container of a warm function."""
    (record,) = functions.environments(name)
    return engine.inspect(record["container"])


def test_docker_flags_reach_the_container(make: Make, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    tmp_path.chmod(0o755)
    functions = make(
        LAMBDA_DOCKER_FLAGS=f"-e FLAG='a b' -v {tmp_path}:/given:ro --add-host db.example:10.9.8.7 --label who=me "
        "--ulimit core=7"
    )
    name = functions.python(LOOKS)
    assert ask(functions, name, "os.environ['FLAG']") == "a b"
    assert ask(functions, name, "pathlib.Path('/given/file').read_text()") == "from the host"
    assert ask(functions, name, "socket.gethostbyname('db.example')") == "10.9.8.7"
    found = inspected(functions, engine, name)
    assert found["Config"]["Labels"]["who"] == "me"
    assert {"Name": "core", "Soft": 7, "Hard": 7} in found["HostConfig"]["Ulimits"]


def test_a_published_port_is_reachable_on_loopback(make: Make, engine: Engine) -> None:
    functions = make(LAMBDA_DOCKER_FLAGS="-p 8080")
    name = functions.python(LOOKS)
    assert ask(functions, name, "1") == 1
    (bound,) = inspected(functions, engine, name)["NetworkSettings"]["Ports"]["8080/tcp"]
    assert bound["HostIp"] == "127.0.0.1"
    assert int(bound["HostPort"])


def test_user_and_host_network(make: Make) -> None:
    functions = make(LAMBDA_DOCKER_FLAGS="--user 4321:4321 --network host")
    name = functions.python(LOOKS)
    assert ask(functions, name, "[os.getuid(), os.getgid()]") == [4321, 4321]
    assert ask(functions, name, f"bool(socket.create_connection(('127.0.0.1', {functions.stack.port})))") is True


def test_the_dns_servers_given_are_asked(make: Make) -> None:
    functions = make(LAMBDA_DOCKER_DNS="10.9.8.7")
    name = functions.python(LOOKS)
    # A network of one's own resolves by the engine, which asks the servers given.
    text = ask(functions, name, "pathlib.Path('/etc/resolv.conf').read_text()")
    assert "10.9.8.7" in text or "127.0.0.11" in text


def test_a_container_joins_the_networks_given(make: Make, engine: Engine) -> None:
    names = [f"everwarm-test-{os.getpid()}-{n}" for n in range(2)]
    try:
        for one in names:
            engine.ensure_network(one, {})
        functions = make(LAMBDA_DOCKER_NETWORK=",".join(names))
        name = functions.python(LOOKS)
        # Both times: in a namespace that was ready, and in one made for it.
        for _ in range(2):
            devices = ask(functions, name, "sorted(os.listdir('/sys/class/net'))")
            assert len([device for device in devices if device.startswith("eth")]) == 2
        functions.stack.stop("worker")
    finally:
        for one in names:
            assert engine.remove_network(one)


def test_a_container_may_have_no_network(make: Make) -> None:
    functions = make(LAMBDA_DOCKER_NETWORK="none")
    name = functions.python(LOOKS)
    assert ask(functions, name, "[n for n in os.listdir('/sys/class/net') if n.startswith('eth')]") == []


def test_stopped_containers_are_kept_for_debugging(make: Make, engine: Engine) -> None:
    functions = make("docker", LAMBDA_REMOVE_CONTAINERS="0")
    name = functions.python(LOOKS)
    assert ask(functions, name, "1") == 1
    label = f"{LABEL_FUNCTION}=000000000000:us-east-1:{name}:$LATEST"
    (left,) = wait_until(
        "it has stopped", lambda: [one for one in engine.containers(label) if one.state == "exited"], 10
    )
    engine.remove(left.id)


def layers(engine: Engine, worker: str) -> list[str]:
    """Of one worker."""
    return [name for name, labels in engine.images(f"{LABEL_WORKER}={worker}") if LABEL_LAYER in labels]


@pytest.mark.parametrize("kind", ["docker", "stay-open", "docker-exec"])
def test_code_as_a_layer(make: Make, engine: Engine, kind: str) -> None:
    functions = make(kind, LAMBDA_REMOTE_DOCKER="1")
    (worker,) = functions.stack.workers()
    name = functions.python(LOOKS)
    assert ask(functions, name, "os.stat('/var/task/index.py').st_uid") == 0
    assert ask(functions, name, "os.access('/var/task', os.W_OK)") is False
    assert len(layers(engine, worker)) == 1
    functions.update(name, LOOKS.replace("eval(event)", "'new'"))
    assert functions.invoke(name, "1").json == "new"
    assert len(layers(engine, worker)) == 2
    functions.stack.stop("worker")
    assert layers(engine, worker) == [], "a worker that stops leaves none of its layers"


def test_layers_of_a_dead_worker_are_removed(make: Make, engine: Engine) -> None:
    functions = make("docker", LAMBDA_REMOTE_DOCKER="1")
    (worker,) = functions.stack.workers()
    assert ask(functions, functions.python(LOOKS), "1") == 1
    assert layers(engine, worker)
    functions.stack.kill9("worker")
    functions.stack.start_part("worker")
    functions.stack.wait_until_ready()
    wait_until("its layers are gone", lambda: not layers(engine, worker), 60, every_s=0.5)


def test_cpu_by_weight_or_by_quota(make: Make, engine: Engine) -> None:
    functions = make(EVERWARM_CPU_QUOTA="1")
    name = functions.python(LOOKS, MemorySize=1769)
    assert ask(functions, name, "1") == 1
    host = inspected(functions, engine, name)["HostConfig"]
    assert (host["CpuShares"], host["CpuPeriod"], host["CpuQuota"]) == (1024, 100_000, 100_000)
    assert host["Memory"] == host["MemorySwap"] == (1769 + 16) << 20


def test_the_image_mapping_chooses_the_image(make: Make) -> None:
    functions = make(
        LAMBDA_CONTAINER_REGISTRY="nowhere.test/lambda",
        LAMBDA_RUNTIME_IMAGE_MAPPING=f'{{"python3.11": "{image("python3.11")}"}}',
    )
    assert ask(functions, functions.python(LOOKS, Runtime="python3.11"), "1") == 1


def test_a_runtime_image_that_is_missing_is_a_state(make: Make) -> None:
    functions = make(LAMBDA_CONTAINER_REGISTRY="localhost:1/nowhere")
    found = functions.end_of_pending(functions.python(LOOKS, Runtime="python3.11", wait=False))
    assert (found["State"], found["StateReasonCode"]) == ("Failed", "InvalidImage")
    assert "has no image localhost:1/nowhere/python:3.11" in found["StateReason"]
    assert "everwarm images build python3.11" in found["StateReason"]


def test_an_image_without_the_contract(make: Make, engine: Engine) -> None:
    name = f"{REGISTRY}/contract:none"
    make_static_image(engine, name, ['CMD ["/function"]'])
    try:
        functions = make(LAMBDA_RUNTIME_IMAGE_MAPPING=f'{{"python3.11": "{name}"}}')
        found = functions.end_of_pending(functions.python(LOOKS, Runtime="python3.11", wait=False))
        assert (found["State"], found["StateReasonCode"]) == ("Failed", "InvalidRuntime")
        assert "lambda-entrypoint.sh" in found["StateReason"]
    finally:
        engine.remove_image(name)


def test_another_architecture_is_refused(make: Make) -> None:
    functions = make()
    found = functions.end_of_pending(functions.python(LOOKS, Architectures=["arm64"], wait=False))
    assert found["State"] == "Failed"
    assert "LAMBDA_IGNORE_ARCHITECTURE=1" in found["StateReason"]
