"""The dispatcher killed and started again, and a second one on its database."""

import time

from tests.faults.calls import caller, environment_processes, wait_until_quiet, wait_until_running
from tests.services.commands import everwarm
from tests.services.processes import free_port
from tests.services.stack import Stack


def test_kill_9_during_an_invocation(own_stack: Stack) -> None:
    work = caller(own_stack)
    before = work(n=1)
    call = work.begin(s=3, n=2)
    wait_until_running(own_stack)
    began = time.monotonic()
    own_stack.kill9("dispatcher")
    answer = call.result(3)
    assert answer.status == 0, "the caller's connection ends with the dispatcher"
    own_stack.start_part("dispatcher")
    own_stack.wait_until_ready()
    # What runs goes on to its end and harms nobody; the worker stays warm.
    assert work(n=3).body["n"] == 3
    assert time.monotonic() - began < 15
    wait_until_quiet(own_stack)
    again = work(n=4)
    assert again.body["n"] == 4
    assert again.body["pid"] in {process.pid for process in environment_processes(own_stack)}
    assert before.body["pid"] in {process.pid for process in environment_processes(own_stack)}
    assert "Traceback" not in own_stack.log_text()


def test_sigterm_during_an_invocation_answers_it(own_stack: Stack) -> None:
    work = caller(own_stack)
    call = work.begin(s=1, n=2)
    wait_until_running(own_stack)
    own_stack.stop("dispatcher", 10)
    answer = call.result(1)
    assert answer.good or answer.refused, answer
    assert "Traceback" not in own_stack.log_text()
    own_stack.start_part("dispatcher")
    own_stack.wait_until_ready()
    wait_until_quiet(own_stack)


def test_a_second_one_on_the_same_database_is_refused(own_stack: Stack) -> None:
    environ = {
        name: value for name, value in own_stack.environ.items() if name.startswith(("EVERWARM_", "LAMBDA_"))
    } | {"EVERWARM_PORT": str(free_port())}
    done = everwarm("dispatcher", environ=environ, timeout_s=20)
    assert done.status != 0
    assert "PostgreSQL" in done.err
    assert "Traceback" not in done.err
    assert own_stack.get("/_everwarm/health")[0] == 200
