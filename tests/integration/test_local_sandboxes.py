"""Sandboxes of local environments: one in advance, and nothing left of any."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.processes import alive, look, wait_until_gone
from tests.services.waiting import wait_until
from workers.link.loop_thread import LoopThread
from workers.modes.local.cgroups import MemoryGroups
from workers.modes.local.sandboxes import LocalSandbox, LocalSandboxes

UIDS = range(1_795_000_000, 1_795_000_100)


def _fail(error: BaseException) -> None:
    raise error


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    thread = LoopThread(_fail)
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[MemoryGroups]:
    run = tmp_path / f"everwarm-test-{os.getpid()}-{tmp_path.name}"
    run.mkdir()
    groups = MemoryGroups(run)
    yield groups
    groups.close()


@pytest.fixture
def sandboxes(tmp_path: Path, loop: LoopThread, memory: MemoryGroups) -> Iterator[LocalSandboxes]:
    directory = tmp_path / "environments"
    directory.mkdir()
    uids = UIDS if os.geteuid() == 0 else None
    made = LocalSandboxes(directory, uids, loop, memory, (tmp_path,), lambda _environment, _request: None)
    yield made
    made.close()
    assert list(directory.iterdir()) == []


def test_a_sandbox_made_in_advance_is_taken_and_replaced(
    sandboxes: LocalSandboxes, tmp_path: Path, loop: LoopThread
) -> None:
    first = _take(sandboxes, tmp_path)
    second = _take(sandboxes, tmp_path)

    assert first.relay.pid != second.relay.pid
    for sandbox in (first, second):
        loop.submit(sandboxes.destroy(sandbox)).result(20)
        assert look(sandbox.relay.pid) is None


def test_a_dead_relay_is_not_handed_out(sandboxes: LocalSandboxes, tmp_path: Path, loop: LoopThread) -> None:
    lost = _take(sandboxes, tmp_path)
    process = look(lost.relay.pid)
    assert process is not None
    os.kill(lost.relay.pid, signal.SIGKILL)
    wait_until_gone([process])
    wait_until("the link has heard of it", lambda: not lost.fresh)
    sandboxes._spare, left = lost, sandboxes._spare  # As if it had died while it waited.

    sandbox = sandboxes.take(tmp_path)

    assert sandbox is not lost
    assert sandbox.fresh
    for one in filter(None, (sandbox, left)):
        loop.submit(sandboxes.destroy(one)).result(20)


def test_code_elsewhere_gets_a_sandbox_that_shows_it(
    sandboxes: LocalSandboxes, tmp_path: Path, loop: LoopThread
) -> None:
    spare = wait_until("a sandbox is made in advance", lambda: sandboxes._spare)

    sandbox = sandboxes.take(Path("/usr"))

    assert sandbox is not spare
    assert sandbox.fresh
    loop.submit(sandboxes.destroy(sandbox)).result(20)


def test_what_a_relay_in_a_group_starts_is_born_there(
    sandboxes: LocalSandboxes, tmp_path: Path, memory: MemoryGroups, loop: LoopThread
) -> None:
    sandbox = _take(sandboxes, tmp_path)
    if sandbox.group is not None:
        assert sandbox.group.joinpath("cgroup.procs").read_text().split() == [str(sandbox.relay.pid)]
        assert sandboxes.limit(sandbox, 100) == [str(sandbox.group)]
        assert int(sandbox.group.joinpath("memory.limit_in_bytes").read_text()) == 116 << 20
    elif memory.usable:
        assert len(sandboxes.limit(sandbox, 100)) == 1
    else:
        assert sandboxes.limit(sandbox, 100) == []
    loop.submit(sandboxes.destroy(sandbox)).result(20)
    assert sandbox.group is None or not sandbox.group.exists()


def test_the_spare_ends_with_the_rest(sandboxes: LocalSandboxes, tmp_path: Path) -> None:
    wait_until("a sandbox is made in advance", lambda: sandboxes._spare)
    assert sandboxes._spare is not None
    process = look(sandboxes._spare.relay.pid)
    assert process is not None
    assert alive(process)

    sandboxes.close()

    wait_until_gone([process])


def _take(sandboxes: LocalSandboxes, tmp_path: Path) -> LocalSandbox:
    """The sandbox made in advance."""
    spare = wait_until("a sandbox is made in advance", lambda: sandboxes._spare)
    sandbox = sandboxes.take(tmp_path)
    assert sandbox is spare
    return sandbox
