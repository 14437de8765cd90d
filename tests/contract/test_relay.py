"""A real relay with real runtimes: what goes through, what is refused, and how environments end."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.services import processes
from tests.services.relay import ECHO, Environment, Environments, program, public_python, running_environments
from tests.services.waiting import wait_until
from workers.link import frames
from workers.link.answers import ApiRequest, Exited, FunctionError, InitFailed, LinkBroken, Response, Started
from workers.relay import binaries

LIMIT = 6_291_556
UID = 1_980_000 + os.getpid() % 10_000
"""This process's own: tests that run beside it must not have their processes killed with ours."""


@pytest.fixture
def environments() -> Iterator[Environments]:
    yield from running_environments()


def response(answer: object) -> Response:
    assert isinstance(answer, Response), answer
    return answer


def at_least(count: int, found: list[processes.Process]) -> list[processes.Process]:
    return found if len(found) >= count else []


# What goes through


def test_events_and_responses_pass_unchanged(environments: Environments) -> None:
    environment = environments.start(program(ECHO))
    started = environment.started
    assert isinstance(started, Started)
    assert 1 < started.init_ms < 20_000
    assert started.memory_kb > 1000
    for number, payload in enumerate([b"{}", b'"\xc3\xa4"', b"", b"x" * 70_000]):
        answer = response(environment.invoke(payload, f"r{number}"))
        assert answer.payload == payload
        assert not answer.too_large
        assert answer.memory_kb > 1000
        environment.wait_idle()


def test_an_event_carries_its_own_headers_and_only_those_that_are_set(environments: Environments) -> None:
    environment = environments.start(
        program("""
while True:
    request_id, _, headers = next_event()
    respond(request_id, json.dumps({k.lower(): v for k, v in headers.items() if k.startswith("Lambda-")}))
""")
    )
    assert isinstance(environment.started, Started)
    bare = {
        "lambda-runtime-aws-request-id": "r1",
        "lambda-runtime-deadline-ms": "1234",
        "lambda-runtime-invoked-function-arn": "arn:f",
    }
    answer = response(environment.invoke(trace_id="Root=1", client_context='{"a":1}', cognito_identity='{"b":2}'))
    assert json.loads(answer.payload) == bare | {
        "lambda-runtime-trace-id": "Root=1",
        "lambda-runtime-client-context": '{"a":1}',
        "lambda-runtime-cognito-identity": '{"b":2}',
    }
    environment.wait_idle()
    assert json.loads(response(environment.invoke()).payload) == bare


def test_six_megabytes_pass_both_ways_and_the_relay_holds_no_copy(environments: Environments) -> None:
    environment = environments.start(program(ECHO))
    assert isinstance(environment.started, Started)
    payload = os.urandom(1024) * (LIMIT // 1024)
    for number in range(3):
        assert response(environment.invoke(payload, f"r{number}")).payload == payload
        environment.wait_idle()
    assert peak_kb(environment.relay_pid) < 40_000


def peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def test_log_bytes_come_in_order_and_before_the_answer(environments: Environments) -> None:
    environment = environments.start(
        program("""
os.write(1, b"init\\n")
while True:
    request_id, _, _ = next_event()
    for number in range(1000):
        os.write(1 + number % 2, b"%d\\n" % number)
    respond(request_id, b"{}")
""")
    )
    assert isinstance(environment.started, Started)
    assert environment.logs == b"init\n"
    environment.logs.clear()
    answer = environment.send()
    answer.result(20)
    assert bytes(environment.logs) == b"".join(b"%d\n" % number for number in range(1000))


def test_a_hundred_megabytes_of_output_arrive(environments: Environments) -> None:
    environment = environments.start(
        program("""
while True:
    request_id, _, _ = next_event()
    for _ in range(100):
        sys.stdout.buffer.write(b"x" * 1_000_000)
    sys.stdout.flush()
    respond(request_id, b'"done"')
""")
    )
    assert response(environment.started and environment.invoke()).payload == b'"done"'
    assert len(environment.logs) == 100_000_000
    assert peak_kb(environment.relay_pid) < 40_000


def test_a_child_that_writes_for_ever_does_not_hold_up_the_answer(environments: Environments) -> None:
    environment = environments.start(
        program("""
request_id, _, _ = next_event()
subprocess.Popen(["yes"])
while True:
    respond(request_id, b'"here"')
    request_id, _, _ = next_event()
""")
    )
    assert response(environment.started and environment.invoke()).payload == b'"here"'
    environment.kill()
    assert environment.exited().signal == signal.SIGKILL


def test_output_waits_while_nobody_reads(environments: Environments) -> None:
    environment = environments.start(
        program("""
while True:
    request_id, _, _ = next_event()
    os.write(1, b"x" * 3_000_000)
    respond(request_id, b"1")
""")
    )
    assert isinstance(environment.started, Started)
    environment.pause_reading()
    answer = environment.send()
    (runtime,) = environment.tree()
    wait_until("the runtime is stuck", lambda: "pipe" in Path(f"/proc/{runtime.pid}/wchan").read_text())
    assert not answer.done()
    assert environment.logs == b""
    environment.resume_reading()
    assert response(answer.result(20)).payload == b"1"
    assert len(environment.logs) == 3_000_000


def test_errors_keep_every_byte(environments: Environments) -> None:
    environment = environments.start(
        program("""
while True:
    request_id, body, _ = next_event()
    fail(request_id, body, "Function.Odd")
""")
    )
    assert isinstance(environment.started, Started)
    body = b'{ "errorMessage" : "\\u00e4",\n"more":[1]}'
    for _ in range(2):
        answer = environment.invoke(body)
        assert isinstance(answer, FunctionError)
        assert (answer.body, answer.error_type, answer.too_large) == (body, "Function.Odd", False)
        environment.wait_idle()


def test_an_initialisation_error_is_a_value_and_the_exit_follows(environments: Environments) -> None:
    environment = environments.start(
        program("""
status, _, _ = call("POST", RUNTIME + "init/error", b'{"errorType":"E"}', {"Lambda-Runtime-Function-Error-Type": "Runtime.E"})
sys.exit(status - 200)
""")
    )
    failed = environment.started
    assert isinstance(failed, InitFailed)
    assert (failed.body, failed.error_type) == (b'{"errorType":"E"}', "Runtime.E")
    exited = environment.exited()
    assert (exited.exit_code, exited.init_over) == (2, False)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_response_over_the_limit_is_refused_and_the_runtime_goes_on(
    environments: Environments, chunked: bool
) -> None:
    environment = environments.start(
        program(f"""
while True:
    request_id, body, _ = next_event()
    size = int(body)
    body = (b"x" * 100_000 for _ in range(size // 100_000)) if {chunked} else b"x" * size
    status, _, answer = respond(request_id, body)
    print(status, answer.decode(), flush=True)
"""),
        response_limit=LIMIT,
    )
    assert isinstance(environment.started, Started)
    answer = response(environment.invoke(b"7000000"))
    assert answer.too_large
    assert answer.payload == b""
    environment.wait_idle()
    assert bytes(environment.logs) == (
        b'413 {"errorMessage":"Exceeded maximum allowed payload size (6291556 bytes).",'
        b'"errorType":"RequestEntityTooLarge"}\n\n'
    )
    assert len(response(environment.invoke(b"6200000")).payload) == 6_200_000


def test_a_streamed_response_may_fail_midway(environments: Environments) -> None:
    environment = environments.start(
        program("""
import socket
request_id, _, _ = next_event()
host, port = API.split(":")
raw = socket.create_connection((host, int(port)))
raw.sendall((
    f"POST {RUNTIME}invocation/{request_id}/response HTTP/1.1\\r\\nHost: x\\r\\nTransfer-Encoding: chunked\\r\\n"
    "Lambda-Runtime-Function-Response-Mode: streaming\\r\\n"
    "Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\\r\\n\\r\\n"
    "4\\r\\nhalf\\r\\n0\\r\\n"
    "Lambda-Runtime-Function-Error-Type: Odd\\r\\nLambda-Runtime-Function-Error-Body: e30=\\r\\n\\r\\n").encode())
assert b"202" in raw.recv(1000)
next_event()
""")
    )
    answer = response(environment.started and environment.invoke())
    assert (answer.payload, answer.streaming) == (b"half", True)
    assert (answer.error_type, answer.error_body) == ("Odd", "e30=")
    environment.wait_idle()


def test_a_response_that_breaks_off_says_so(environments: Environments) -> None:
    environment = environments.start(
        program("""
import socket
request_id, _, _ = next_event()
host, port = API.split(":")
raw = socket.create_connection((host, int(port)))
raw.sendall((f"POST {RUNTIME}invocation/{request_id}/response HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 9\\r\\n\\r\\n1234").encode())
raw.close()
next_event()
""")
    )
    assert response(environment.started and environment.invoke()).error == "Runtime.TruncatedResponse"


def test_an_answer_survives_a_runtime_that_dies_without_hearing_of_it(environments: Environments) -> None:
    environment = environments.start(
        program("""
request_id, _, _ = next_event()
connection.request("POST", RUNTIME + f"invocation/{request_id}/response", b"x" * 500_000)
os._exit(7)
""")
    )
    assert len(response(environment.started and environment.invoke()).payload) == 500_000
    assert environment.exited().exit_code == 7


# What the Runtime API refuses


def test_wrong_requests_get_the_emulators_answers(environments: Environments) -> None:
    environment = environments.start(
        program("""
def show(method, path, body=None):
    status, _, text = call(method, path, body)
    print(status, text.decode().strip(), flush=True)
show("POST", RUNTIME + "invocation/r1/response", b"{}")
request_id, _, _ = next_event()
show("POST", RUNTIME + "invocation/other/response", b"{}")
show("POST", RUNTIME + "init/error", b"{}")
show("GET", RUNTIME + "invocation/next")
show("GET", "/2018-06-01/ping")
show("GET", "/2018-06-01/nothing")
show("PUT", RUNTIME + "invocation/next")
show("GET", "/2020-01-01/extension/register")
show("GET", "/2015-03-31/functions/")
respond(request_id, b"1")
show("POST", RUNTIME + f"invocation/{request_id}/response", b"{}")
next_event()
""")
    )
    assert response(environment.started and environment.invoke()).payload == b"1"
    environment.wait_idle()
    assert bytes(environment.logs).decode().splitlines() == [
        refused("Started", "InvocationResponse"),
        '400 {"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}',
        refused("Running", "InitError"),
        refused("Running", "Ready"),
        "200 pong",
        "404 404 page not found",
        "404 404 page not found",
        "404 404 page not found",
        '403 {"errorMessage":"This function may not call the Lambda API","errorType":"AccessDeniedException"}',
        refused("ResponseSent", "InvocationResponse"),
    ]


def refused(before: str, after: str) -> str:
    message = f"Transition from {before} to {after} failed for runtime. Error: State transition is not allowed"
    return f'403 {{"errorMessage":"{message}","errorType":"InvalidStateTransition"}}'


def test_of_two_requests_for_an_event_the_later_one_gets_it(environments: Environments) -> None:
    environment = environments.start(
        program("""
import select
other = http.client.HTTPConnection(API)
for each in (connection, other):
    each.request("GET", RUNTIME + "invocation/next")
refused = select.select([connection.sock, other.sock], [], [])[0][0]
early, late = (connection, other) if refused is connection.sock else (other, connection)
answer = early.getresponse()
answer.read()
print(answer.status, flush=True)
answer = late.getresponse()
request_id, body = answer.headers["Lambda-Runtime-Aws-Request-Id"], answer.read()
respond(request_id, body)
next_event()
""")
    )
    wait_until("one request is refused", lambda: environment.logs == b"403\n")
    assert response(environment.started and environment.invoke(b"7")).payload == b"7"
    environment.wait_idle()


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs user ids of its own")
def test_only_the_functions_own_user_is_served(environments: Environments) -> None:
    environment = environments.start(program(ECHO, public_python()), uid=UID, gid=UID, check_peer_uid=True)
    assert isinstance(environment.started, Started)
    host, port = environment.link.runtime_api.split(":")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n")
        with suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    assert response(environment.invoke(b"5")).payload == b"5"


# How environments end


@pytest.mark.parametrize(("code", "status"), [("sys.exit(0)", 0), ("os._exit(127)", 127), ("raise SystemExit(3)", 3)])
@pytest.mark.parametrize("when", ["init", "handler"])
def test_the_runtimes_exit_code_is_reported(environments: Environments, code: str, status: int, when: str) -> None:
    environment = environments.start(program(code if when == "init" else f"next_event(); {code}"))
    if when == "handler":
        assert isinstance(environment.started, Started)
        answer = environment.invoke()
    else:
        answer = environment.started  # type: ignore[assignment]
    assert isinstance(answer, Exited)
    assert (answer.exit_code, answer.signal, answer.init_over) == (status, None, when == "handler")
    assert environment.exited() == answer
    assert environment.relay_status() == 0


def test_the_signal_that_ended_the_runtime_is_reported(environments: Environments) -> None:
    environment = environments.start(program("next_event(); os.kill(os.getpid(), signal.SIGSEGV)"))
    answer = environment.started and environment.invoke()
    assert isinstance(answer, Exited)
    assert (answer.exit_code, answer.signal, answer.oom) == (None, signal.SIGSEGV, False)


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["/nowhere/bootstrap"], "/nowhere/bootstrap: no such file or directory"),
        (["/etc/passwd"], "/etc/passwd: permission denied"),
        (["no-such-command"], "no-such-command: no such file or directory"),
    ],
)
def test_a_runtime_that_cannot_be_started(environments: Environments, argv: list[str], error: str) -> None:
    answer = environments.start(argv).started
    assert isinstance(answer, Exited)
    assert (answer.exit_code, answer.signal, answer.error) == (None, None, error)


UNRULY = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.setsid(); os.fork(); os.fork(); os.setsid if 0 else 0; time.sleep(600)"
for _ in range(3):
    subprocess.Popen([sys.executable, "-I", "-S", "-c", child], close_fds=False)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
request_id, _, _ = next_event()
time.sleep(600)
"""


def unruly(environments: Environments) -> tuple[Environment, list[processes.Process]]:
    """A runtime with 14 processes, most in sessions of their own, that runs an invocation."""
    environment = environments.start(program(UNRULY))
    assert isinstance(environment.started, Started)
    environment.send()
    tree = wait_until("all processes are there", lambda: at_least(14, environment.tree()))
    return environment, tree


def test_kill_leaves_nothing_of_the_tree(environments: Environments) -> None:
    environment, tree = unruly(environments)
    environment.kill()
    assert environment.exited().signal == signal.SIGKILL
    assert not [process for process in tree if processes.alive(process)]


def test_a_closed_stdin_leaves_nothing_of_the_tree(environments: Environments) -> None:
    environment, tree = unruly(environments)
    environment.close_input()
    assert environment.relay_status() == 0
    assert not [process for process in tree if processes.alive(process)]


def test_sigterm_leaves_nothing_of_the_tree(environments: Environments) -> None:
    environment, tree = unruly(environments)
    os.kill(environment.relay_pid, signal.SIGTERM)
    assert environment.exited().signal == signal.SIGKILL
    assert not [process for process in tree if processes.alive(process)]


def test_a_runtimes_exit_takes_its_children_along(environments: Environments) -> None:
    environment = environments.start(
        program('subprocess.Popen(["sleep", "600"], start_new_session=True); next_event()')
    )
    assert isinstance(environment.started, Started)
    tree = wait_until("the child is there", lambda: at_least(2, environment.tree()))
    answer = environment.invoke()
    assert isinstance(answer, Exited)
    assert answer.exit_code == 0
    assert not [process for process in tree if processes.alive(process)]


@pytest.mark.parametrize("uid", [None, UID], ids=["own user", "user of its own"])
def test_a_fork_storm_can_be_killed(environments: Environments, uid: int | None) -> None:
    if uid is not None and os.geteuid() != 0:
        pytest.skip("needs user ids of its own")
    environment = environments.start(
        program(
            """
request_id, _, _ = next_event()
for _ in range(4):
    if os.fork() == 0:
        while True:
            if os.fork() == 0:
                os.setsid()
            else:
                os._exit(0)
time.sleep(600)
""",
            public_python(),
        ),
        uid=uid,
        gid=uid,
    )
    assert isinstance(environment.started, Started)
    environment.send()
    wait_until("it storms", lambda: len(environment.tree()) >= 4)
    environment.kill()
    assert environment.exited().signal == signal.SIGKILL
    assert environment.tree() == []


def test_kill_works_while_an_event_is_stuck(environments: Environments) -> None:
    environment = environments.start(
        program("""
import socket
host, port = API.split(":")
raw = socket.socket()
raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
raw.connect((host, int(port)))
raw.sendall(f"GET {RUNTIME}invocation/next HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode())
time.sleep(600)
""")
    )
    assert isinstance(environment.started, Started)
    answer = environment.send(b"x" * LIMIT)
    environment.kill()
    assert isinstance(answer.result(20), Exited)


def test_the_memory_limit_ends_the_tree(environments: Environments) -> None:
    environment = environments.start(
        program("""
request_id, _, _ = next_event()
subprocess.run([sys.executable, "-I", "-S", "-c", "x = b'x' * 200_000_000; import time; time.sleep(600)"])
time.sleep(600)
"""),
        memory_mb=128,
    )
    answer = environment.started and environment.invoke()
    assert isinstance(answer, Exited)
    assert (answer.signal, answer.oom) == (signal.SIGKILL, True)
    assert answer.memory_kb > 128 * 1024


def is_empty(group: Path) -> bool:
    return not group.joinpath("cgroup.procs").read_text()


@pytest.fixture
def cgroups() -> Iterator[list[str]]:
    """Cgroups made for the test, one with a memory limit of 64 MB: of version 1, and a bare one of version 2."""
    made: list[Path] = []
    for root, limit in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup/unified", "cgroup.procs")]:
        group = Path(root, f"everwarm-test-{os.getpid()}")
        if not Path(root, "cgroup.procs").exists() or not os.access(root, os.W_OK):
            pytest.skip(f"no cgroups of both versions that this user may make ({root})")
        group.mkdir()
        made.append(group)
        if limit.startswith("memory"):
            group.joinpath(limit).write_text("64000000")
    yield [str(group) for group in made]
    for group in made:
        wait_until("the cgroup is empty", partial(is_empty, group))
        group.rmdir()


def test_the_runtime_is_put_into_its_cgroups(environments: Environments, cgroups: list[str]) -> None:
    environment = environments.start(
        program("request_id, _, _ = next_event(); x = b'x' * 100_000_000; respond(request_id, b'1'); next_event()"),
        memory_mb=10,
        memory_cgroup=cgroups,
    )
    assert isinstance(environment.started, Started)
    (runtime,) = environment.tree()
    for group in cgroups:
        assert Path(group, "cgroup.procs").read_text().split() == [str(runtime.pid)]
    answer = environment.invoke()
    assert isinstance(answer, Exited)
    assert (answer.signal, answer.oom) == (signal.SIGKILL, True)


def test_a_short_peak_of_memory_shows(environments: Environments) -> None:
    environment = environments.start(
        program("""
while True:
    request_id, body, _ = next_event()
    x = b"x" * int(body)
    del x
    respond(request_id, b"{}")
""")
    )
    small = response(environment.started and environment.invoke(b"1")).memory_kb
    environment.wait_idle()
    assert response(environment.invoke(b"50000000")).memory_kb > small + 45_000


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff" + b"x" * 100,
        b"\x00\x00\x00\x01x",
        (5 + frames.MAX_PAYLOAD + 1).to_bytes(4) + b"\x02" + bytes(4) + bytes(100),
        frames.encode(0x77),
        frames.encode(frames.STARTED),
        frames.encode(frames.START, b"{}"),
        frames.encode(frames.EVENT, b"[]"),
        frames.encode(frames.EVENT, b'{"request_id":"r","length":-1}'),
        frames.encode(frames.DATA, b"x"),
        frames.encode(frames.END),
        frames.encode(frames.END, stream=9),
        frames.encode(frames.API_RESPONSE, b'{"status":200}', stream=9),
        frames.encode(frames.EVENT, b'{"request_id":"r","length":9}') * 2,
        frames.encode(frames.EVENT, b'{"request_id":"r","length":9}') + frames.encode(frames.DATA, b"x" * 10),
    ],
)
def test_malformed_frames_end_the_relay_and_its_tree(
    environments: Environments, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = environments.start(program(ECHO))
    assert isinstance(environment.started, Started)
    tree = environment.tree()
    environment.write(data)
    assert environment.relay_status() == 3
    assert isinstance(environment.end(), LinkBroken)
    assert not [process for process in tree if processes.alive(process)]
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("everwarm-relay: protocol error: ")


@pytest.mark.parametrize(
    "data", [frames.encode(frames.START, b"{}"), frames.encode(frames.KILL), b"junk of no kind", b"\0"]
)
def test_a_malformed_start_ends_the_relay(data: bytes) -> None:
    done = subprocess.run([binaries.host_binary()], input=data, capture_output=True, env={}, check=False)
    assert done.returncode == 3
    assert done.stdout == b""


def test_a_relay_that_is_told_nothing_ends_quietly() -> None:
    done = subprocess.run([binaries.host_binary()], input=b"", capture_output=True, env={}, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_kill_minus_nine_of_the_worker_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, sys
        from tests.services.relay import program
        from workers.link.answers import (Event, FunctionIdentity, Start)
        from workers.link.process_relay import spawn

        async def main():
            relay = await spawn(on_log=print, on_idle=print, on_exit=print)
            code = "subprocess.Popen(['sleep', '600'], start_new_session=True); next_event(); time.sleep(600)"
            start = Start(argv=program(code), env={"PATH": "/usr/bin:/bin"}, cwd="/", function=FunctionIdentity("f", "1", "h"))
            await asyncio.wrap_future(relay.link.start(start))
            relay.link.invoke(Event(request_id="r", deadline_ms=1, invoked_arn="a"))
            print("running", flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
        """)
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, script], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stdout=-1
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"running\n"
        tree = wait_until("the tree is there", lambda: at_least(4, processes.tree([worker.pid])))
        worker.kill()
        worker.wait()
    processes.wait_until_gone(tree)


def test_kill_minus_nine_of_the_relay_leaves_nothing(environments: Environments) -> None:
    environment, tree = unruly(environments)
    os.kill(environment.relay_pid, signal.SIGKILL)
    assert isinstance(environment.end(), LinkBroken)
    assert environment.relay_status() == -signal.SIGKILL
    processes.wait_until_gone(tree)


# What the runtime's process is given

SELF_PORTRAIT = """
import resource
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
mask = os.umask(0)
portrait = {
    "fds": sorted(os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "processes": resource.getrlimit(resource.RLIMIT_NPROC),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "umask": mask,
    "no_new_privs": status["NoNewPrivs"],
    "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups()],
    "session": os.getsid(0) == os.getpid(),
    "env": sorted(os.environ),
    "url": os.environ.get("AWS_ENDPOINT_URL_LAMBDA") == "http://" + API,
    "ignored": int(status["SigIgn"], 16) & ~(1 << 12 | 1 << 24),
    "blocked": status["SigBlk"].strip("0"),
}
request_id, _, _ = next_event()
respond(request_id, json.dumps(portrait))
next_event()
"""


def test_what_the_runtime_inherits(environments: Environments) -> None:
    environment = environments.start(
        program(SELF_PORTRAIT), env={"A": "b", "LC_CTYPE": "C.UTF-8"}, api_env=["AWS_ENDPOINT_URL_LAMBDA"]
    )
    found = json.loads(response(environment.started and environment.invoke()).payload)
    assert tuple(found.pop("processes")) == resource.getrlimit(resource.RLIMIT_NPROC)
    # Signals 32 and 33 are the C library's own, and nobody can set them back.
    found["ignored"] &= ~(0b11 << 31)
    assert found == {
        "fds": ["/dev/null", "pipe", "pipe"],
        "files": [1024, 1024],
        "core": [0, 0],
        "umask": 0o022,
        "no_new_privs": "1",
        "ids": [os.getuid(), os.getuid(), os.getgid(), os.getgid(), os.getgroups()],
        "session": True,
        "env": ["A", "AWS_ENDPOINT_URL_LAMBDA", "AWS_LAMBDA_RUNTIME_API", "LC_CTYPE"],
        "url": True,
        "ignored": 0,
        "blocked": "",
    }


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs user ids of its own")
def test_an_identity_of_its_own(environments: Environments) -> None:
    environment = environments.start(program(SELF_PORTRAIT, public_python()), uid=UID, gid=UID, process_limit=1024)
    found = json.loads(response(environment.started and environment.invoke()).payload)
    assert found["ids"] == [UID, UID, UID, UID, []]
    assert found["processes"] == [1024, 1024]


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs mounts of its own")
def test_the_environment_sees_a_tmp_of_its_own(environments: Environments, tmp_path: Path) -> None:
    private, kept = tmp_path / "private", tmp_path / "kept"
    private.mkdir()
    private.chmod(0o777)
    kept.mkdir()
    (kept / "code").write_text("here")
    name = f"everwarm-{os.getpid()}"
    environment = environments.start(
        program(f"""
for place in ["/tmp", "/var/tmp", "/dev/shm"]:
    if os.path.isdir(place):
        assert os.path.exists("{kept}/code") and not os.path.exists("{private}")
        open(place + "/{name}" + place.replace("/", "-"), "w").close()
next_event()
"""),
        private_tmp=str(private),
        keep=[str(kept), "/usr", sys.prefix],
    )
    assert isinstance(environment.started, Started), environment.logs
    assert environment.link.private_tmp == "on"
    assert (private / f"{name}-tmp").exists()
    assert not Path(f"/tmp/{name}-tmp").exists()


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs mounts of its own")
def test_kept_paths_are_not_in_the_private_tmp(environments: Environments) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as base:
        private = Path(base, "private")
        private.mkdir()
        private.chmod(0o777)
        environment = environments.start(
            program(
                f"""
print(os.listdir("/tmp"), os.listdir("/var/tmp") == ["{Path(base).name}"], os.listdir("{base}"), flush=True)
open("{private}/file", "w").close()
print(os.listdir("/tmp"), flush=True)
try:
    open("/var/tmp/file", "w")
except PermissionError:
    print("read-only", flush=True)
next_event()
""",
                public_python(),
            ),
            private_tmp=str(private),
            keep=[str(private)],
            uid=UID,
            gid=UID,
        )
        assert isinstance(environment.started, Started), environment.logs
        assert environment.logs.decode().splitlines() == ["[] True ['private']", "['file']", "read-only"]
        environment.close()


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="starts a relay as another user")
def test_a_function_of_the_relays_own_user_cannot_look_into_it() -> None:
    """Also what a user who is not root gets: no private /tmp, but an environment that works."""
    code = """
parent = os.getppid()
for what in ["environ", "mem", "fd/0", "maps"]:
    try:
        open(f"/proc/{parent}/{what}", "rb").close()
        print("opened", what, flush=True)
    except PermissionError:
        pass
next_event()
"""
    start: dict[str, object] = {
        "argv": program(code, public_python()),
        "env": {},
        "cwd": "/",
        "uid": None,
        "gid": None,
        "response_limit": LIMIT,
        "check_peer_uid": True,
    }
    binary = os.open(binaries.host_binary(), os.O_RDONLY)
    command = [f"/proc/self/fd/{binary}", "--private-tmp", "/nowhere"]
    relay = subprocess.Popen(command, stdin=-1, stdout=-1, pass_fds=[binary], user=UID, group=UID, extra_groups=[])
    os.close(binary)
    assert relay.stdin is not None
    assert relay.stdout is not None
    relay.stdin.write(frames.encode(frames.START, json.dumps(start).encode()))
    relay.stdin.flush()
    decoder, found = frames.Decoder(), list[frames.Frame]()
    while not found or found[-1][0] != frames.NEXT:
        data = os.read(relay.stdout.fileno(), 65536)
        assert data, found
        found += decoder.feed(data)
    relay.stdin.close()
    relay.stdout.close()
    assert relay.wait(10) == 0
    assert [kind for kind, _, _ in found] == [frames.STARTED, frames.NEXT]
    assert json.loads(found[0][2])["private_tmp"] == "unshare: operation not permitted"


# Requests to the Lambda API


def test_requests_of_the_function_reach_the_worker_side_by_side(environments: Environments) -> None:
    environment = environments.start(
        program("""
import threading
def ask(number):
    mine = http.client.HTTPConnection(API)
    mine.request("POST", f"/2015-03-31/functions/f%3A{number}/invocations?Qualifier=1", b"x" * number, {"X-Amz-Log-Type": "Tail"})
    answer = mine.getresponse()
    if answer.read() == b"y" * number and answer.status == 200 and answer.headers["X-Number"] == str(number):
        good.append(number)
request_id, _, _ = next_event()
good = []
sizes = [0, 1, 100, 70_000, 3_000_000, 6_000_000]
threads = [threading.Thread(target=ask, args=[size]) for size in sizes]
[t.start() for t in threads]
[t.join() for t in threads]
respond(request_id, json.dumps(sorted(good) == sizes))
next_event()
"""),
        api=True,
    )

    seen: list[ApiRequest] = []

    def answer(request: ApiRequest) -> None:
        seen.append(request)
        number = len(request.body)
        environment.link.respond(request.stream, 200, [("X-Number", str(number))], b"y" * number)

    environment.on_api = answer
    assert response(environment.started and environment.invoke()).payload == b"true"
    assert {request.target for request in seen} >= {"/2015-03-31/functions/f%3A0/invocations?Qualifier=1"}
    assert all(request.method == "POST" for request in seen)
    assert all(("X-Amz-Log-Type", "Tail") in request.headers for request in seen)


def test_an_api_request_that_is_too_large_or_given_up(environments: Environments) -> None:
    environment = environments.start(
        program("""
import socket
request_id, _, _ = next_event()
host, port = API.split(":")
raw = socket.create_connection((host, int(port)))
raw.sendall(b"POST /2015-03-31/functions HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 100\\r\\n\\r\\n12345")
raw.close()
status, _, body = call("POST", "/2015-03-31/functions", b"x" * 200_000)
respond(request_id, json.dumps([status, json.loads(body)["errorType"]]))
next_event()
"""),
        api=True,
        api_limit=100_000,
    )
    answer = response(environment.started and environment.invoke())
    assert json.loads(answer.payload) == [413, "RequestTooLargeException"]
    assert environment.requests == []


def test_an_api_response_nobody_reads_stalls_nothing(environments: Environments) -> None:
    environment = environments.start(
        program("""
import socket
host, port = API.split(":")
raw = socket.socket()
raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
raw.connect((host, int(port)))
raw.sendall(b"GET /2015-03-31/functions HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
while True:
    request_id, body, _ = next_event()
    respond(request_id, body)
"""),
        api=True,
    )
    environment.on_api = lambda request: environment.link.respond(request.stream, 200, [], b"x" * 20_000_000)
    assert isinstance(environment.started, Started)
    payload = b"x" * 3_000_000
    for number in range(3):
        assert response(environment.invoke(payload, f"r{number}")).payload == payload
        environment.wait_idle()
