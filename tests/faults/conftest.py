"""What holds after each fault: nobody's traceback in a log, and nothing left of the worker's environments."""

from collections.abc import Callable, Iterator

import pytest

from tests.faults.calls import environment_processes, run_directory
from tests.services.stack import Stack
from workers.contract import keys


@pytest.fixture
def make_stack(make_stack: Callable[..., Stack]) -> Iterator[Callable[..., Stack]]:
    """Starts stacks for this test alone, and looks at what they leave."""
    started: list[Stack] = []

    def make(**environ: str) -> Stack:
        started.append(make_stack(**environ))
        return started[-1]

    yield make
    for stack in started:
        assert "Traceback" not in stack.log_text()
        _stop_worker(stack)


def _stop_worker(stack: Stack) -> None:
    """One that was killed leaves keys that expire; one that stops leaves none."""
    if not stack.runs("worker"):
        return
    pid = stack.pid("worker")
    directory = run_directory(pid)
    name = _name(stack, pid) if stack.redis.running else None
    stack.stop("worker")
    assert not directory.exists()
    assert not environment_processes(stack)
    if name is not None:
        client = stack.redis.client
        records = client.scan_iter(keys.environment("*"))
        left = [key for key in records if client.hget(key.decode(), "worker") == name.encode()]
        left += client.scan_iter(f"everwarm:*:{name}")
        assert not left, "a worker that stopped left these to expire"


def _name(stack: Stack, pid: int) -> str | None:
    client = stack.redis.client
    for key in client.scan_iter(keys.worker("*")):
        if client.hget(key.decode(), "pid") == str(pid).encode():
            return str(key.decode()).removeprefix(keys.worker(""))
    return None
