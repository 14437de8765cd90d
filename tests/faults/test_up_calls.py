"""``everwarm up`` stopped and killed, and its parts killed, while calls run."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.calls import Caller, create, run_directory
from tests.services.processes import Process
from tests.services.up import Up
from tests.services.waiting import wait_until

Start = Callable[..., Up]


def runtimes(up: Up) -> list[Process]:
    """Processes of functions."""
    return [process for process in up.tree() if "bootstrap" in process.command]


def test_sigint_with_a_call_that_lasts_longer(up: Start) -> None:
    one = up().wait_until_ready()
    work = create(one.client(), timeout_s=60)
    call = work.begin(s=50)
    wait_until("the function's process is there", lambda: runtimes(one))
    began = time.monotonic()
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(10) == 0
    assert time.monotonic() - began < 10
    answer = call.result(1)
    assert answer.refused, answer
    one.wait_until_nothing_is_left(1)


def test_kill_9_during_calls_leaves_nothing(up: Start) -> None:
    one = up("--workers", "2").wait_until_ready()
    work = create(one.client(max_pool_connections=20), timeout_s=60)
    calls = [work.begin(s=50) for _ in range(4)]
    wait_until("the functions' processes are there", lambda: len(runtimes(one)) == 4)
    directories = {run_directory(part.pid) for part in one.tree() if part.command.endswith("-m workers")}
    assert len(directories) == 2
    one.process.kill()
    one.process.wait()
    one.wait_until_nothing_is_left(5)
    assert all(call.result(5).status == 0 for call in calls)
    # What lies on disk goes with the next start, of two workers at once.
    two = up("--workers", "2", "--data", str(one.data / "data")).wait_until_ready()
    assert not any(map(Path.exists, directories))
    again = Caller(two.client(), "work")
    assert again.wait_until_good(n=1).body["n"] == 1
    assert "Traceback" not in two.output()


def test_a_killed_worker_is_replaced_while_the_other_serves(up: Start) -> None:
    one = up("--workers", "2").wait_until_ready()
    work = create(one.client(max_pool_connections=20), timeout_s=60)
    assert work(n=1).good
    workers = [part for part in one.tree() if part.command.endswith("-m workers")]
    os.kill(workers[0].pid, signal.SIGKILL)
    answers = [work(n=n) for n in range(20)]
    assert all(answer.good for answer in answers), [answer for answer in answers if not answer.good]
    wait_until("there are two again", lambda: len([p for p in one.tree() if p.command.endswith("-m workers")]) == 2, 10)
