"""A whole Everwarm, each part a process of its own that a test can kill and start again."""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import boto3
import pytest
from botocore.config import Config
from mypy_boto3_lambda import LambdaClient

from dispatcher.cli.process import spawn
from tests.services import docker
from tests.services.commands import clean_environ
from tests.services.processes import everything, free_port, tree, wait_until_gone
from tests.services.redis import RedisServer
from tests.services.waiting import wait_until
from workers.contract import keys
from workers.engine import Container

Name = Literal["dispatcher", "worker", "second worker"]
ACCOUNT = "000000000000"
_PYTHON = (sys.executable, "-P")
_COMMANDS: dict[Name, tuple[str, ...]] = {
    "dispatcher": (*_PYTHON, "-m", "dispatcher.cli", "dispatcher"),
    "worker": (*_PYTHON, "-m", "workers"),
    "second worker": (*_PYTHON, "-m", "workers"),
}


class Stack:
    """Redis, dispatcher and one worker, of mode local unless told otherwise, with a data directory, a port and user ids of its own."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.data = Path(tempfile.mkdtemp(prefix="everwarm-test-"))
        self.log = self.data / "stack.log"
        self.redis = RedisServer(self.data / "redis")
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        first_uid = 1_800_000_000 + random.randrange(60_000) * 1000
        self.uids = range(first_uid, first_uid + 1000)
        self.environ = {
            **clean_environ(),
            "EVERWARM_REDIS_URL": self.redis.url,
            "EVERWARM_DATA": str(self.data),
            "EVERWARM_PORT": str(self.port),
            "EVERWARM_ENDPOINT": self.endpoint,
            "EVERWARM_LOCAL_UIDS": f"{self.uids.start}-{self.uids.stop - 1}",
            "EVERWARM_DRAIN_S": "5",
            "EVERWARM_LOG": "text",
            "LAMBDA_EXECUTOR": "local",
            **(environ or {}),
        }
        self._running: dict[Name, subprocess.Popen[bytes]] = {}
        self._installations: set[str] = set()
        """Labels of what its workers may have made on a container engine."""

    @property
    def mode(self) -> str:
        """Of its worker."""
        return self.environ.get("EVERWARM_MODE", "local")

    # --- parts ---

    def start(self) -> "Stack":
        """Start everything and wait until it can run a function."""
        self.redis.start()
        self.start_part("dispatcher")
        self.start_part("worker")
        self.wait_until_ready()
        return self

    def start_part(self, name: Name) -> None:
        """Start one part; wait with :meth:`wait_until_ready`."""
        with self.log.open("ab") as log:
            self._running[name] = spawn(_COMMANDS[name], self.environ, output=log)

    def add_worker(self) -> None:
        """A second worker like the first; both must be there when this returns."""
        self.start_part("second worker")
        wait_until("both workers are there", lambda: len(self.workers()) == 2, 20)

    def workers(self) -> list[str]:
        """Names of the living workers."""
        names = [name.decode() for name in self.redis.client.scan_iter(keys.worker("*"))]
        return [name.removeprefix(keys.worker("")) for name in names]

    def pid(self, name: Name) -> int:
        """Of a running part."""
        return self._running[name].pid

    def pids(self) -> set[int]:
        """Of all running parts, Redis included."""
        found = {process.pid for process in self._running.values()}
        return found | ({self.redis.pid} if self.redis.running else set())

    def runs(self, name: Name) -> bool:
        """Whether a part was started and has not ended."""
        return name in self._running and self._running[name].poll() is None

    def kill9(self, name: Name) -> None:
        """End a part as a crash would."""
        self._end(name, signal.SIGKILL)

    def stop(self, name: Name, timeout_s: float = 20.0) -> None:
        """Ask a part to stop, and wait for it."""
        self._end(name, signal.SIGTERM, timeout_s)

    def restart(self, name: Name) -> None:
        """Kill a part, start it again, and wait until all is ready."""
        self.kill9(name)
        self.start_part(name)
        self.wait_until_ready()

    def _end(self, name: Name, number: signal.Signals, timeout_s: float = 20.0) -> None:
        process = self._running.pop(name)
        process.send_signal(number)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{name} lived on {timeout_s:g} s after {number.name}") from None

    def wait_until_ready(self, timeout_s: float = 20.0) -> None:
        """Until the health page answers 200; fails at once when a part has ended."""

        def ready() -> bool:
            for name, process in self._running.items():
                assert process.poll() is None, f"{name} ended with status {process.returncode}"
            return self.get("/_everwarm/health")[0] == 200

        wait_until("the stack is ready", ready, timeout_s)
        secret = self.redis.client.get(keys.SECRET) if self.mode != "local" else None
        if isinstance(secret, bytes):
            self._installations.add(docker.installation(secret))

    def containers(self) -> list[Container]:
        """What its workers have on the container engine."""
        return [container for name in self._installations for container in docker.containers_of(name)]

    def _wait_until_no_container_is_left(self) -> None:
        try:
            wait_until("the stack's containers are gone", lambda: not self.containers(), 10, every_s=0.1)
        except AssertionError:
            left = self.containers()
            for container in left:
                docker.connection().remove(container.id)
            names = [f"{container.name} ({container.state})" for container in left]
            raise AssertionError(f"containers left by the stack: {names}") from None

    def _remove_networks(self) -> list[str]:
        """Those of its workers that are left: of a killed one its network stays for the next of the installation."""
        if not self._installations:
            return []
        names = [f"everwarm-{name}" for name in self._installations]
        found = [network["Name"] for network in docker.client().networks(names=names) if network["Name"] in names]
        for name in found:
            docker.connection().remove_network(name)
        return found

    def close(self) -> None:
        """Stop everything; fails when a process, a container or a Redis key is left behind."""
        left = tree(process.pid for process in self._running.values())
        worker_stops = self.runs("worker")
        try:
            for name in reversed(list(self._running)):
                self.stop(name)
            leaked = self.redis.leaked_keys() if self.redis.running else []
            wait_until_gone([*left, *(process for process in everything() if process.uid in self.uids)])
            self._wait_until_no_container_is_left()
            networks = self._remove_networks()
            assert not (networks and worker_stops), f"left by a worker that stopped: {networks}"
            assert not leaked, f"keys without a TTL that are not on the permanent list: {leaked}"
        finally:
            self.redis.close()
            shutil.rmtree(self.data, ignore_errors=True)

    # --- talking to it ---

    def client(self, account: str = ACCOUNT, region: str = "us-east-1", **config: Any) -> LambdaClient:
        """A boto3 client without retries; ``config`` are further options of botocore's Config."""
        options: dict[str, Any] = {"retries": {"total_max_attempts": 1}, "read_timeout": 60, **config}
        return boto3.client(
            "lambda",
            endpoint_url=self.endpoint,
            region_name=region,
            aws_access_key_id=account,
            aws_secret_access_key="test",
            config=Config(**options),
        )

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a page; status 0 when nobody listens."""
        return self._ask(urllib.request.Request(self.endpoint + path))

    def post(self, path: str, body: bytes = b"{}") -> tuple[int, bytes]:
        """As :meth:`get`, with a body."""
        return self._ask(urllib.request.Request(self.endpoint + path, body, method="POST"))

    @staticmethod
    def _ask(request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def log_text(self) -> str:
        """Everything the parts have written so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def show_log(stack: Stack) -> None:
    """Standard output, which pytest shows with a failure."""
    print(f"--- log of the stack at {stack.endpoint} (last 200 lines)")
    print("\n".join(stack.log_text().splitlines()[-200:]))


@pytest.fixture(scope="session")
def _stacks_of_session() -> Iterator[dict[str, Stack]]:
    stacks: dict[str, Stack] = {}
    yield stacks
    for stack in stacks.values():
        try:
            stack.close()
        except AssertionError:
            show_log(stack)
            raise


@pytest.fixture
def shared_stack(_stacks_of_session: dict[str, Stack]) -> Iterator[Callable[..., Stack]]:
    """A running stack that tests share, by the name of its settings; use names of your own, and leave its parts alone."""
    used: list[Stack] = []

    def of(name: str, **environ: str) -> Stack:
        if name not in _stacks_of_session:
            stack = _stacks_of_session[name] = Stack(environ)
            stack.start()
        used.append(_stacks_of_session[name])
        return used[-1]

    yield of
    for stack in used:
        show_log(stack)


@pytest.fixture
def stack(shared_stack: Callable[..., Stack]) -> Stack:
    """A running stack in mode local that tests share."""
    return shared_stack("local")


@pytest.fixture
def make_stack() -> Iterator[Callable[..., Stack]]:
    """Starts stacks for this test alone: ``make_stack(EVERWARM_CONCURRENCY="2")``."""
    started: list[Stack] = []

    def make(**environ: str) -> Stack:
        stack = Stack(environ)
        started.append(stack)
        return stack.start()

    yield make
    for stack in started:
        show_log(stack)
        stack.close()


@pytest.fixture
def own_stack(make_stack: Callable[..., Stack]) -> Stack:
    """A running stack for this test alone, to kill parts of."""
    return make_stack()
