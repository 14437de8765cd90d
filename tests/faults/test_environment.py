"""Relay and runtime killed, and an environment's directory deleted under it."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.calls import (
    Caller,
    caller,
    environment_processes,
    run_directory,
    wait_until_quiet,
    wait_until_running,
)
from tests.services.processes import Process, everything, look, wait_until_gone
from tests.services.stack import Stack
from tests.services.waiting import wait_until


def runtimes(stack: Stack) -> list[Process]:
    """The first process of each environment that has started."""
    below = {process.pid for process in everything() if process.parent == stack.pid("worker")}
    return [process for process in environment_processes(stack) if process.parent in below]


def relay_and_runtime(stack: Stack) -> tuple[Process, Process]:
    """Of the only environment."""
    (runtime,) = runtimes(stack)
    relay = look(runtime.parent)
    assert relay is not None
    return relay, runtime


def scratch(process: Process) -> Path:
    """The private directory of an environment."""
    environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    (found,) = [entry.removeprefix(b"TMPDIR=") for entry in environ if entry.startswith(b"TMPDIR=")]
    return Path(found.decode())


def kill_and_wait(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    wait_until_gone([process], 10)


@pytest.fixture
def work(own_stack: Stack) -> Caller:
    return caller(own_stack)


def test_the_runtime_killed_during_a_call(own_stack: Stack, work: Caller) -> None:
    assert work(n=1).good
    relay, runtime = relay_and_runtime(own_stack)
    call = work.begin(s=20, n=2)
    wait_until_running(own_stack)
    kill_and_wait(runtime)
    answer = call.result(6)
    assert (answer.status, answer.error) == (200, "Unhandled")
    assert answer.body["errorType"] == "Runtime.ExitError"
    assert answer.body["errorMessage"].endswith("Error: Runtime exited with error: signal: killed")
    assert work(n=3).body["calls"] == 1
    wait_until_gone([relay], 10)
    wait_until_quiet(own_stack)


def test_the_runtime_killed_while_idle(own_stack: Stack, work: Caller) -> None:
    assert work(n=1).good
    relay, runtime = relay_and_runtime(own_stack)
    kill_and_wait(runtime)
    wait_until_gone([relay], 10)
    answer = work(n=2)
    assert answer.good, answer
    assert answer.body["calls"] == 1
    wait_until_quiet(own_stack)


def test_the_runtime_killed_and_called_at_once(own_stack: Stack, work: Caller) -> None:
    """Whoever is first, the call is answered: by another environment, or as a function's exit."""
    for n in range(10):
        assert work.wait_until_good(n=n)
        for runtime in runtimes(own_stack):
            os.kill(runtime.pid, signal.SIGKILL)
        answer = work(n=n)
        assert answer.good or answer.body["errorType"] == "Runtime.ExitError", answer
        assert answer.took_s < 6
    wait_until_quiet(own_stack)


def test_the_relay_killed_during_a_call(own_stack: Stack, work: Caller) -> None:
    assert work(n=1).good
    relay, runtime = relay_and_runtime(own_stack)
    call = work.begin(s=20, n=2)
    wait_until_running(own_stack)
    kill_and_wait(relay)
    answer = call.result(6)
    assert (answer.status, answer.error) == (500, "ServiceException")
    wait_until_gone([runtime], 10)
    assert work(n=3).body["calls"] == 1
    wait_until_quiet(own_stack)


def test_the_relay_killed_while_idle(own_stack: Stack, work: Caller) -> None:
    assert work(n=1).good
    relay, runtime = relay_and_runtime(own_stack)
    kill_and_wait(relay)
    wait_until_gone([runtime], 10)
    answer = work(n=2)
    assert answer.good, answer
    assert answer.body["calls"] == 1
    wait_until_quiet(own_stack)


def test_the_relay_frozen_during_a_call(make_stack: Callable[..., Stack]) -> None:
    """The function's timeout holds whatever the relay does."""
    stack = make_stack()
    work = caller(stack, timeout_s=6)
    assert work(n=1).good
    relay, runtime = relay_and_runtime(stack)
    call = work.begin(s=5, n=2)
    wait_until_running(stack)
    os.kill(relay.pid, signal.SIGSTOP)
    answer = call.result(20)
    assert (answer.status, answer.error) == (200, "Unhandled"), answer
    assert answer.body["errorType"] == "Sandbox.Timedout"
    assert work(n=3).good
    wait_until_gone([relay, runtime], 10)
    wait_until_quiet(stack)


def test_the_relay_killed_and_called_at_once(own_stack: Stack, work: Caller) -> None:
    """Nobody knows yet that it is gone when the next call leases its environment."""
    for n in range(10):
        work.wait_until_good(n=n)
        relay, _ = relay_and_runtime(own_stack)
        os.kill(relay.pid, signal.SIGKILL)
        answer = work(n=n)
        assert answer.good or answer.refused, answer
        assert answer.took_s < 6
        wait_until_gone([relay], 10)
    wait_until_quiet(own_stack)


def test_the_directory_deleted_under_it(own_stack: Stack, work: Caller) -> None:
    assert work(n=1).good
    directory = run_directory(own_stack.pid("worker"))
    for environment in (directory / "environments").iterdir():
        shutil.rmtree(environment)
    assert work.wait_until_good(n=2).body["n"] == 2
    assert "Traceback" not in own_stack.log_text()
    relay, _ = relay_and_runtime(own_stack)
    kill_and_wait(relay)
    assert work.wait_until_good(n=3).body["n"] == 3
    wait_until_quiet(own_stack)


def test_the_code_deleted_under_it(own_stack: Stack, work: Caller) -> None:
    """A warm environment goes on; a new one says what is wrong."""
    assert work(n=1).good
    for tree in (run_directory(own_stack.pid("worker")) / "code").iterdir():
        shutil.rmtree(tree)
    relay, _ = relay_and_runtime(own_stack)
    kill_and_wait(relay)
    assert work.wait_until_good(n=2).body["n"] == 2


def test_nothing_is_left_of_them(own_stack: Stack, work: Caller) -> None:
    calls = [work.begin(s=4, n=n) for n in range(3)]
    assert all(call.result(20).good for call in calls)
    before = {runtime: scratch(runtime).parent for runtime in runtimes(own_stack)}
    assert len(before) == 3
    for runtime in before:
        os.kill(runtime.parent, signal.SIGKILL)
    wait_until("their directories are gone", lambda: not any(path.exists() for path in before.values()))
    wait_until("no process is left", lambda: not environment_processes(own_stack))
    client = own_stack.redis.client
    wait_until("no record is left", lambda: not list(client.scan_iter("everwarm:environment:*")))
