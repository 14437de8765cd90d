"""What a function in a container can't do, by trying it: to its relay, to other functions, to the host, to the engine."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.services.docker import require_engine, settings_of
from tests.services.functions import Functions
from tests.services.stack import Stack
from workers.engine import Engine

PROBE = """
import ctypes, os, pathlib, signal, socket

def attempt(work):
    try:
        return repr(work())
    except OSError as error:
        return type(error).__name__

def status():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return dict(line.split(":\\t", 1) for line in lines)

def handler(event, context):
    return eval(event)
"""


@pytest.fixture(params=["docker", "stay-open", "docker-exec"])
def functions(request: pytest.FixtureRequest, shared_stack: Callable[..., Stack]) -> Functions:
    return Functions(shared_stack(request.param, **settings_of(request.param)), request.param)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with require_engine() as found:
        yield found


def ask(functions: Functions, name: str, expression: str) -> Any:
    answer = functions.invoke(name, expression)
    assert answer.error is None, answer.body
    return answer.json


def test_a_containers_function_has_no_privileges(functions: Functions) -> None:
    name = functions.python(PROBE, Environment={"Variables": {"SECRET": "planted-secret"}})
    found = ask(functions, name, "status()")
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(found[kind], 16) == 0, kind
    assert found["NoNewPrivs"] == "1"
    assert found["Seccomp"] == "2"
    uid = ask(functions, name, "os.getuid()")
    assert uid >= 20_000
    every_try = ask(
        functions,
        name,
        "[attempt(lambda: os.kill(1, signal.SIGKILL)), attempt(lambda: os.kill(os.getppid(), signal.SIGTERM)),"
        " attempt(lambda: os.setuid(0)), attempt(lambda: open('/proc/1/environ').read()),"
        " attempt(lambda: open('/proc/1/mem', 'rb')), attempt(lambda: os.listdir('/proc/1/fd')),"
        " attempt(lambda: open('/.everwarm-relay', 'ab')), attempt(lambda: open('/var/task/x', 'w')),"
        " attempt(lambda: open('/etc/x', 'w')), attempt(lambda: os.mknod('/tmp/disk', 0o60600, 0x0800)),"
        " attempt(lambda: os.listdir('/root')), attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))]",
    )
    assert set(every_try) <= {"PermissionError", "OSError"}, every_try
    sockets = "[str(p) for p in pathlib.Path('/').rglob('docker.sock')]"
    assert ask(functions, name, sockets) == []


def test_the_engine_knows_no_secret(functions: Functions, engine: Engine) -> None:
    name = functions.python(PROBE, Environment={"Variables": {"SECRET": "planted-secret"}})
    assert ask(functions, name, "os.environ['SECRET']") == "planted-secret"
    for record in functions.environments(name):
        assert "planted-secret" not in str(engine.inspect(record["container"]))
    assert "planted-secret" not in functions.stack.log_text()


def test_functions_do_not_reach_each_other(functions: Functions) -> None:
    listens = """
import os, socket, threading
server = socket.create_server(("0.0.0.0", 7777))
def handler(event, context):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]
"""
    if functions.kind == "docker":
        # There it must be listening while the other one tries.
        listens = listens.replace("        return probe", "        import time; time.sleep(event or 0); return probe")
    one = functions.python(listens)
    other = functions.python(PROBE)
    address = functions.invoke(one, 0).json
    connect = f"attempt(lambda: socket.create_connection(({address!r}, 7777), 2))"
    assert ask(functions, other, connect) in {"TimeoutError", "ConnectionRefusedError", "OSError"}
    relay = f"attempt(lambda: socket.create_connection(({address!r}, 9001), 2))"
    assert ask(functions, other, relay) in {"TimeoutError", "ConnectionRefusedError", "OSError"}
    assert ask(functions, other, "attempt(lambda: bool(socket.create_connection(('127.0.0.1', 9001), 2)))") == "True"


def test_a_containers_function_has_its_limits(functions: Functions) -> None:
    name = functions.python(PROBE)
    assert ask(functions, name, "__import__('resource').getrlimit(7)") == [1024, 1024]
    limits = "[p.read_text().strip() for p in pathlib.Path('/sys/fs/cgroup').rglob('pids.max') if p.is_file()]"
    assert "1024" in ask(functions, name, limits)
