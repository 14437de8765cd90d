"""What every starter owes the keeper of environments: the fake one, in each of its kinds, and that of mode local.

The starters of the docker modes are held to it by the conformance tests, where there is an engine.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, get_args

import pytest

from tests.services.local import python_runtime
from tests.services.redis import RedisServer
from tests.services.waiting import wait_until
from workers.contract import keys
from workers.contract.messages import FunctionSpec
from workers.environments.environment import Environment, EnvironmentBroken, Interrupted, deadline_ms
from workers.environments.fake_starter import FakeStarter, Process, Script, Step
from workers.environments.leases import Lease
from workers.environments.starter import StartError
from workers.function_logs import Shipper
from workers.link.answers import Event, Exited, Response, Started, TimedOut
from workers.link.loop_thread import LoopThread
from workers.modes.factory import Closing
from workers.modes.local.starter import LocalStarter
from workers.redis_client import Store
from workers.settings import WorkerSettings

WAIT_S: Final = 20.0
HANDLER: Final = """
import os, time
def handler(event, context):
    print("hello", flush=True)
    if event == "die":
        os.kill(os.getpid(), 9)
    if event == "hang":
        time.sleep(60)
    return event
"""
SCRIPTS: Final[dict[str, tuple[Step, ...]]] = {"die": (b"hello\n", "die"), "hang": (b"hello\n",)}


class Seam:
    """A starter, and what stands around it in a worker."""

    def __init__(self, server: RedisServer, kind: str, code: Path) -> None:
        self.kind = kind
        """``local``, or what kind of fake it is."""
        self.server = server
        self.gone: list[Environment] = []
        self.died: list[BaseException] = []
        self.loop = LoopThread(self.died.append)
        self.loop.start()
        store = Store(server.url)
        self._shipper = Shipper(store, self.died.append)
        self._shipper.start()
        self._code = code
        self._made = 0
        self.fake: FakeStarter | None = None
        self.starter: Closing = self._make(kind, server)

    def _make(self, kind: str, server: RedisServer) -> Closing:
        if kind == "local":
            settings = WorkerSettings(redis_url=server.url, name="w")
            return LocalStarter(settings, self.loop, self._shipper, lambda _environment, _request: None)
        (process,) = (one for one in get_args(Process) if one == kind)
        self.fake = FakeStarter(self.loop, self._shipper, process=process)
        return self.fake

    def new(self, *, hot_reload_path: str = "") -> Environment:
        """An environment for which there is room, and which has not been started."""
        self._made += 1
        spec = FunctionSpec(
            account="000000000000", region="us-east-1", function="f", version="$LATEST", runtime=python_runtime(),
            handler="index.handler", timeout_s=5, memory_mb=128, ephemeral_mb=512, environment={}, code_sha256="",
            hot_reload_path=hot_reload_path or str(self._code), revision="r",
        )  # fmt: skip
        lease = Lease(f"{self._made:032x}", spec, "local", "w")
        return Environment(lease, self.loop, self.gone.append)

    def start(self) -> Environment:
        environment = self.new()
        self.starter.start(environment, "")
        return environment

    def start_and_wait(self) -> Environment:
        environment = self.start()
        assert isinstance(environment.wait_started(WAIT_S), Started)
        return environment

    def invoke(self, environment: Environment, payload: str, timeout_s: float = WAIT_S) -> object:
        if self.fake is not None:
            steps = SCRIPTS.get(payload, (b"hello\n", "answer", "ask"))
            self.fake.relays[environment.id].script = Script(event=steps)
        event = Event(
            request_id="i1", deadline_ms=deadline_ms(timeout_s), invoked_arn="arn", payload=f'"{payload}"'.encode()
        )
        environment.log_buffer.begin_invocation("START\n")
        return environment.invoke(event, timeout_s)

    def close(self) -> None:
        self.starter.close()
        self._shipper.stop()
        self.loop.stop()
        assert not self.died


@pytest.fixture
def code() -> Iterator[Path]:
    """A directory with the function's code that any user may read."""
    path = Path(tempfile.mkdtemp(prefix="everwarm-test-starter-", dir="/var/tmp"))
    path.chmod(0o755)
    (path / "index.py").write_text(HANDLER)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["local", *get_args(Process)])
def seam(request: pytest.FixtureRequest, redis_server: RedisServer, code: Path) -> Iterator[Seam]:
    made = Seam(redis_server, request.param, code)
    yield made
    made.close()


def test_an_environment_starts_and_answers(seam: Seam) -> None:
    environment = seam.start_and_wait()
    answer = seam.invoke(environment, "x")
    assert isinstance(answer, Response)
    assert answer.payload == b'"x"'
    assert environment.log_buffer.end_invocation("END\n") == b"START\nhello\nEND\n"
    seam.starter.destroy(environment)


def test_an_environment_may_be_used_again_unless_it_is_for_one_invocation(seam: Seam) -> None:
    environment = seam.start_and_wait()
    seam.invoke(environment, "x")
    again = seam.starter.after_invocation(environment, WAIT_S)
    assert again == (seam.kind != "single use")
    if again:
        assert environment.usable
        assert seam.starter.activate(environment)()
        if not environment.started:
            assert isinstance(environment.wait_started(WAIT_S), Started)
        assert isinstance(seam.invoke(environment, "y"), Response)
    seam.starter.destroy(environment)


def test_activating_a_dead_environment_says_so(seam: Seam) -> None:
    environment = seam.start_and_wait()
    seam.invoke(environment, "x")
    environment.wait_idle(WAIT_S)
    seam.starter.destroy(environment)
    assert environment.gone.wait(WAIT_S)
    assert not seam.starter.activate(environment)()


def test_a_death_is_an_answer_and_the_environment_is_gone(seam: Seam) -> None:
    environment = seam.start_and_wait()
    answer = seam.invoke(environment, "die")
    assert isinstance(answer, Exited)
    assert answer.signal == 9
    assert environment.gone.wait(WAIT_S)
    assert not environment.usable
    if seam.kind in ("local", "kept"):
        assert seam.gone == [environment]
        assert not seam.starter.after_invocation(environment, WAIT_S)
    seam.starter.destroy(environment)


def test_what_hangs_is_killed_when_its_time_is_over(seam: Seam) -> None:
    environment = seam.start_and_wait()
    assert isinstance(seam.invoke(environment, "hang", 0.2), TimedOut)
    assert environment.gone.is_set()
    seam.starter.destroy(environment)


@pytest.mark.parametrize("end", [Environment.interrupt, Environment.abort])
def test_what_runs_can_be_ended_by_another_thread(seam: Seam, end: Callable[[Environment], None]) -> None:
    environment = seam.start_and_wait()
    seam.loop.loop.call_soon_threadsafe(seam.loop.loop.call_later, 0.1, end, environment)
    try:
        assert isinstance(seam.invoke(environment, "hang"), Exited)
    except Interrupted:
        assert end is Environment.interrupt
    assert environment.gone.wait(WAIT_S)
    seam.starter.destroy(environment)


def test_what_is_starting_can_be_destroyed(seam: Seam) -> None:
    environment = seam.start()
    seam.starter.destroy(environment)
    try:
        found = environment.wait_started(WAIT_S)
    except EnvironmentBroken:
        found = None
    assert found is None or isinstance(found, (Exited, Started))
    assert environment.gone.wait(WAIT_S)


def test_destroying_twice_is_harmless(seam: Seam) -> None:
    environment = seam.start_and_wait()
    seam.starter.destroy(environment)
    seam.starter.destroy(environment)
    assert environment.gone.wait(WAIT_S)
    seam.starter.destroy(environment)


def test_destroying_what_was_never_started_is_harmless(seam: Seam) -> None:
    seam.starter.destroy(seam.new())


def test_what_can_not_be_started_raises_and_may_be_destroyed(seam: Seam) -> None:
    if seam.fake is not None:

        def fail(_: Environment) -> None:
            raise StartError("as told")

        seam.fake.on_start = fail
    environment = seam.new(hot_reload_path="/nowhere")
    with pytest.raises(StartError):
        seam.starter.start(environment, "")
    environment.interrupt()  # which finds nothing to end
    environment.abort()
    seam.starter.destroy(environment)


def test_the_log_is_shipped(seam: Seam) -> None:
    environment = seam.start_and_wait()
    seam.invoke(environment, "x")
    stream = keys.log("000000000000", "us-east-1", "f")
    wait_until("it is in Redis", lambda: seam.server.client.exists(stream))
    seam.starter.destroy(environment)


def test_a_starter_says_what_the_keeper_plans_with(seam: Seam) -> None:
    assert 0.0 <= seam.starter.hand_back_s < 1.0
    assert seam.starter.single_use == (seam.kind in ("single use", "per invocation"))
