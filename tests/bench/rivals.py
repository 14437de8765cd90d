"""``python -m tests.bench.rivals``: one trivial handler behind Everwarm's mode local and behind what people use instead.

All of them run beside each other on one machine and are called in turns by one client, over a kept connection where
they allow it. A handler's answer differs from its event, so that only what has run the function gets a figure; what
can't be set up here is printed with the reason. ``go`` and ``npm`` fetch what is measured and keep it in their own
caches; everything else is in a temporary folder, and gone afterwards.
"""

import http.client
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import boto3
from rich.console import Console
from rich.table import Table

from dispatcher.cli.part import ask_worker
from tests.bench import cold
from tests.bench.table import latency, number_text
from tests.services.code import zip_of
from tests.services.commands import clean_environ
from tests.services.processes import alive, free_port, tree, wait_until_gone
from tests.services.stack import ACCOUNT, Stack
from tests.services.waiting import wait_until

ROUNDS, CALLS = 5, 40
#: Functions of each target that nobody has called: the first call is the median of theirs.
NEW_FUNCTIONS = 5
_EVENT: Final = b'{"message":"hello"}'
_ANSWER: Final = {"ran": "hello"}
#: What AWS's clients send, in form: moto takes a request without it for one to S3. None of the rivals verifies it here.
_SIGNED: Final = {
    "Authorization": f"AWS4-HMAC-SHA256 Credential={ACCOUNT}/20260101/us-east-1/lambda/aws4_request,"
    f" SignedHeaders=host, Signature={'0' * 64}"
}
_ANSWER_S, _START_S, _INSTALL_S = 60, 90, 600
_PYTHON: Final = 'def handler(event, context):\n    return {"ran": event["message"]}\n'
_NODE: Final = "exports.handler = async (event) => ({ ran: event.message });\n"
_RIE: Final = "github.com/aws/aws-lambda-runtime-interface-emulator"
#: serverless 4 asks for a login, and serverless-offline 14 for serverless 4.
_SERVERLESS: Final = ("serverless@3", "serverless-offline@13")


class Unavailable(Exception):
    """A rival has no figures here; the message is the reason."""


@dataclass
class Target:
    """One rival with one runtime: its functions, none of them called so far, and the milliseconds that calls took."""

    runtime: str
    functions: Sequence[tuple[int, str]]
    """The port on loopback and the function's name."""
    first: list[float] = field(default_factory=list)
    rounds: list[list[float]] = field(default_factory=list)


@dataclass
class Rival:
    """What answers AWS's Invoke, and either its targets or why it has none."""

    name: str
    version: str = ""
    targets: Sequence[Target] = ()
    reason: str = ""


#: Starts a rival in a folder of its own for the length of a ``with``; raises :class:`Unavailable`.
Start = Callable[[Path, Sequence[cold.Program]], AbstractContextManager[tuple[str, list[Target]]]]


def main() -> None:
    """Start all rivals, measure them in turns, and print the table."""
    programs = _programs()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="everwarm-rivals-") as folder, ExitStack() as running:
        rivals = []
        for number, (name, start) in enumerate(_STARTS.items()):
            with console.status(f"setting up {name}"):
                directory = Path(folder, str(number))
                directory.mkdir()
                rivals.append(_started(name, start, directory, programs, running))
        with console.status("calling"):
            _measure(rivals)
    console.print(_table(rivals))
    for rival in rivals:
        if rival.reason:
            console.print(f"{rival.name}: {rival.reason}", markup=False)


def _programs() -> list[cold.Program]:
    """The handler in the Python that runs this, which AWS's client is installed for, and in the newest Node.js."""
    rows = ask_worker("workers.doctor", clean_environ())["runtimes"]
    available = {row["runtime"] for row in rows if row["command"]}
    python = f"python3.{sys.version_info.minor}"
    node = sorted((runtime for runtime in available if runtime.startswith("nodejs")), key=_digits)[-1:]
    found = [cold.Program("Python", python, "index__py", _PYTHON)] if python in available else []  # type: ignore[arg-type]
    return found + [cold.Program("Node.js", runtime, "index__js", _NODE) for runtime in node]


def _digits(runtime: str) -> int:
    return int(re.sub(r"\D", "", runtime) or "0")


def _started(name: str, start: Start, directory: Path, programs: Sequence[cold.Program], running: ExitStack) -> Rival:
    try:
        found, targets = running.enter_context(start(directory, programs))
    except (Unavailable, AssertionError, OSError) as error:
        return Rival(name, reason=str(error))
    return Rival(name, found, targets)


# --- measuring ---


def _measure(rivals: Sequence[Rival]) -> None:
    for number in range(NEW_FUNCTIONS):
        _in_turns(rivals, lambda target: target.first.append(_first_ms(*target.functions[number])))  # noqa: B023
    for _ in range(ROUNDS):
        _in_turns(rivals, lambda target: target.rounds.append(_warm_ms(*target.functions[0])))


def _in_turns(rivals: Sequence[Rival], measure: Callable[[Target], None]) -> None:
    for rival in rivals:
        try:
            for target in rival.targets:
                measure(target)
        except (Unavailable, OSError, http.client.HTTPException) as error:
            rival.targets, rival.reason = (), str(error) or type(error).__name__


def _first_ms(port: int, function: str) -> float:
    connection = _connect(port)
    try:
        return _call_ms(connection, function)
    finally:
        connection.close()


def _warm_ms(port: int, function: str) -> list[float]:
    connection = _connect(port)
    try:
        _call_ms(connection, function)
        return [_call_ms(connection, function) for _ in range(CALLS)]
    finally:
        connection.close()


def _connect(port: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    connection.connect()
    return connection


def _call_ms(connection: http.client.HTTPConnection, function: str) -> float:
    """One synchronous invocation; the connection connects anew by itself where the server has closed it."""
    began = time.perf_counter()
    connection.request("POST", f"/2015-03-31/functions/{function}/invocations", _EVENT, _SIGNED)
    response = connection.getresponse()
    body = response.read()
    took = (time.perf_counter() - began) * 1000
    if response.status != 200:
        raise Unavailable(f"answered {response.status}: {body[:200].decode(errors='replace')}")
    if body.strip() == _EVENT:
        raise Unavailable("answers without running the function: the event came back as it was")
    if json.loads(body) != _ANSWER:
        raise Unavailable(f"answered {body[:200].decode(errors='replace')}, which the function does not")
    return took


# --- rivals ---


@contextmanager
def _everwarm(_: Path, programs: Sequence[cold.Program]) -> Iterator[tuple[str, list[Target]]]:
    stack = Stack({"EVERWARM_MAX_ENVIRONMENTS": "64"})
    try:
        client = stack.start().client()
        targets = []
        for program in programs:
            names = [f"rivals-{program.runtime.replace('.', '-')}-{number}" for number in range(NEW_FUNCTIONS)]
            for name in names:
                cold.create(client, name, program)
            targets.append(Target(program.runtime, [(stack.port, name) for name in names]))
        yield version("everwarm"), targets
    finally:
        stack.close()


@contextmanager
def _rie(directory: Path, programs: Sequence[cold.Program]) -> Iterator[tuple[str, list[Target]]]:
    """One emulator for each function, since it has only one; the first call starts the runtime."""
    python = next((program for program in programs if program.title == "Python"), None)
    if python is None or find_spec("awslambdaric") is None:
        raise Unavailable("AWS's client for Python, awslambdaric, is not installed for this Python")
    _run(["go", "install", f"{_RIE}/cmd/aws-lambda-rie@latest"], directory, {"GOBIN": str(directory)})
    program = str(directory / "aws-lambda-rie")
    found = re.search(rf"^\tmod\t{_RIE}\t(\S+)", _run(["go", "version", "-m", program], directory), re.MULTILINE)
    _unpack(directory, python)
    with ExitStack() as running:
        ports = []
        for number in range(NEW_FUNCTIONS):
            port = free_port()
            addresses = ["--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
            addresses += ["--runtime-api-address", f"127.0.0.1:{free_port()}"]
            argv = [program, *addresses, sys.executable, "-m", "awslambdaric", "index.handler"]
            running.enter_context(_server(argv, directory, port, log=f"{number}.log"))
            ports.append(port)
        yield found[1] if found else "", [Target(python.runtime, [(port, "function") for port in ports])]


@contextmanager
def _serverless_offline(directory: Path, programs: Sequence[cold.Program]) -> Iterator[tuple[str, list[Target]]]:
    _run(["npm", "init", "--yes"], directory)
    _run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *_SERVERLESS], directory)
    names: dict[str, list[str]] = {}
    functions: dict[str, dict[str, str]] = {}
    for program in programs:
        _unpack(directory, program)
        keys = [f"{program.file[-2:]}{number}" for number in range(NEW_FUNCTIONS)]
        functions |= {key: {"handler": "index.handler", "runtime": program.runtime} for key in keys}
        names[program.runtime] = [f"rivals-dev-{key}" for key in keys]
    service = {
        "service": "rivals",
        "configValidationMode": "off",
        "provider": {"name": "aws"},
        "plugins": ["serverless-offline"],
        "functions": functions,
    }
    (directory / "serverless.json").write_text(json.dumps(service))
    ports = {option: free_port() for option in ("--lambdaPort", "--httpPort", "--albPort")}
    argv = ["node_modules/.bin/serverless", "offline", "start"]
    argv += [word for option, port in ports.items() for word in (option, str(port))]
    quiet = {"SLS_TELEMETRY_DISABLED": "1", "SLS_NOTIFICATIONS_MODE": "off"}
    port = ports["--lambdaPort"]
    with _server(argv, directory, port, quiet):
        versions = [_package_version(directory / "node_modules" / word.split("@")[0]) for word in _SERVERLESS]
        yield (
            f"{versions[1]} on serverless {versions[0]}",
            [Target(runtime, [(port, name) for name in found]) for runtime, found in names.items()],
        )


@contextmanager
def _moto(directory: Path, programs: Sequence[cold.Program]) -> Iterator[tuple[str, list[Target]]]:
    """Without containers, which its other way needs for each call, from images of a registry."""
    port = free_port()
    with _server([sys.executable, "-m", "moto.server", "-p", str(port)], directory, port):
        connection = _connect(port)
        connection.request("POST", "/moto-api/config", json.dumps({"lambda": {"use_docker": False}}))
        connection.getresponse().read()
        connection.close()
        session: Any = boto3.Session("test", "test", region_name="us-east-1")  # Any: iam has no stubs here.
        endpoint = f"http://127.0.0.1:{port}"
        session.client("iam", endpoint_url=endpoint).create_role(RoleName="bench", AssumeRolePolicyDocument="{}")
        role = session.client("iam", endpoint_url=endpoint).get_role(RoleName="bench")["Role"]["Arn"]
        client = session.client("lambda", endpoint_url=endpoint)
        targets = []
        for program in programs:
            names = [f"rivals-{program.file[-2:]}-{number}" for number in range(NEW_FUNCTIONS)]
            for name in names:
                client.create_function(
                    FunctionName=name,
                    Runtime=program.runtime,
                    Handler="index.handler",
                    Role=role,
                    Code={"ZipFile": zip_of(**{program.file: program.code})},
                )
            targets.append(Target(program.runtime, [(port, name) for name in names]))
        yield version("moto"), targets


@contextmanager
def _sam(_: Path, __: Sequence[cold.Program]) -> Iterator[tuple[str, list[Target]]]:
    raise Unavailable(
        "not tried: it runs functions in containers, unless told otherwise of AWS's images, which come from a registry"
    )
    yield  # The decorator wants a generator.


_STARTS: Final[dict[str, Start]] = {
    "Everwarm, mode local": _everwarm,
    "AWS RIE": _rie,
    "serverless-offline": _serverless_offline,
    "moto, without containers": _moto,
    "AWS SAM CLI": _sam,
}


# --- programs ---


def _unpack(directory: Path, program: cold.Program) -> None:
    (directory / program.file.replace("__", ".")).write_text(program.code)


def _package_version(directory: Path) -> str:
    found: str = json.loads((directory / "package.json").read_text())["version"]
    return found


def _run(argv: Sequence[str], directory: Path, environ: Mapping[str, str] | None = None) -> str:
    """What a command prints; :class:`Unavailable` where it does not exist, fails or takes too long."""
    try:
        return subprocess.run(
            argv,
            cwd=directory,
            env=clean_environ(environ),
            capture_output=True,
            text=True,
            check=True,
            timeout=_INSTALL_S,
        ).stdout
    except FileNotFoundError:
        raise Unavailable(f"there is no {argv[0]} on PATH") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{argv[0]} took longer than {_INSTALL_S} s") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{' '.join(argv)}: {error.stderr.strip()[-300:]}") from None


@contextmanager
def _server(
    argv: Sequence[str], directory: Path, port: int, environ: Mapping[str, str] | None = None, log: str = "server.log"
) -> Iterator[None]:
    """A process that listens on the port, ended together with everything below it."""
    written = directory / log
    with written.open("wb") as output:
        process = subprocess.Popen(
            argv, cwd=directory, env=clean_environ(environ), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        wait_until(f"{argv[0]} listens", lambda: process.poll() is not None or _listens(port), _START_S, every_s=0.1)
        if process.poll() is not None:
            raise Unavailable(f"{argv[0]} ended: {written.read_text(errors='replace').strip()[-300:]}")
        yield
    finally:
        _end(process)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(process: "subprocess.Popen[bytes]") -> None:
    below = tree([process.pid])
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in filter(alive, below):
        os.kill(left.pid, signal.SIGKILL)
    wait_until_gone(below)


# --- printing ---


def _table(rivals: Sequence[Rival]) -> Table:
    caption = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPUs, Python {platform.python_version()}. First call: median of"
        f" {NEW_FUNCTIONS} new functions. Warm: {ROUNDS} rounds of {CALLS} calls in turns, p50 the median of theirs."
    )
    table = Table("", "VERSION", "RUNTIME", "FIRST CALL", "WARM P50", "WARM P99", box=None, caption=caption)
    table.caption_justify = "left"
    for column in table.columns[3:]:
        column.justify = "right"
    for rival in rivals:
        if not rival.targets:
            table.add_row(rival.name, rival.version, "not measured")
        for target in rival.targets:
            warm = latency(target.rounds)
            figures = (statistics.median(target.first), warm.p50, warm.p99)
            table.add_row(
                rival.name, rival.version, target.runtime, *(number_text(figure, " ms") for figure in figures)
            )
    return table


if __name__ == "__main__":
    main()
