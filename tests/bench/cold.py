"""Cold starts: the first invocation of a revision that has no environment, and what of it is the bare runtime."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from mypy_boto3_lambda import LambdaClient
from mypy_boto3_lambda.literals import RuntimeType

from tests.bench.warm import Connection
from tests.services.code import zip_of
from workers.contract.messages import FunctionSpec
from workers.runtimes.clients import install_clients
from workers.runtimes.commands import Command, runtime_command
from workers.runtimes.variables import process_environment

_START_S = 30
_ROLE = "arn:aws:iam::000000000000:role/bench"


class Program(NamedTuple):
    """An echo in one language."""

    title: str
    runtime: RuntimeType
    file: str
    code: str


PYTHON = "def handler(event, context):\n    return event\n"
NODE = "exports.handler = async (event) => event;\n"


def programs(available: dict[str, str]) -> list[Program]:
    """Echoes in the newest Python and Node that this machine has; ``available`` maps runtimes to commands."""
    found = []
    for family, title, file, code in (
        ("python", "Python", "index__py", PYTHON),
        ("nodejs", "Node.js", "index__js", NODE),
    ):
        newest = [runtime for runtime in available if runtime.startswith(family)][-1:]
        found += [Program(title, runtime, file, code) for runtime in newest]  # type: ignore[arg-type]
    return found


def create(client: LambdaClient, name: str, program: Program, note: str = "", memory_mb: int = 512) -> None:
    """A function with the program as its code; another ``note`` makes it another zip."""
    client.create_function(
        FunctionName=name,
        Runtime=program.runtime,
        Handler="index.handler",
        Role=_ROLE,
        Code={"ZipFile": zip_of(**{program.file: program.code, "note__txt": note})},
        Timeout=30,
        MemorySize=memory_mb,
    )
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})


def first_call_ms(client: LambdaClient, connection: Connection, name: str, program: Program, note: str = "") -> float:
    """Create the function, and time its first invocation."""
    create(client, name, program, note)
    began = time.perf_counter()
    connection.invoke(name)
    return (time.perf_counter() - began) * 1000


class Bare:
    """A runtime's process without anything around it: an interpreter with a client for the Runtime API."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], directory: Path) -> None:
        self._argv = argv
        self._environ = environ
        self._directory = directory

    def start_ms(self) -> float:
        """From its start to its first request."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(_START_S)
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            began = time.perf_counter()
            with _process(self._argv, {**self._environ, "AWS_LAMBDA_RUNTIME_API": address}, self._directory):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(_START_S)
                    request = b""
                    while b"\r\n\r\n" not in request:
                        data = connection.recv(65536)
                        assert data, "the runtime hung up"
                        request += data
                    took = (time.perf_counter() - began) * 1000
        assert request.startswith(b"GET /2018-06-01/runtime/invocation/next "), request
        return took


def our_client(directory: Path, program: Program) -> Bare:
    """What functions get: their interpreter with our client, compiled beforehand."""
    code = _unpack(directory, program)
    clients = install_clients(directory / f"clients-{program.runtime}")
    spec = _spec(program)
    # As root it is an interpreter that other users may run.
    command = runtime_command(spec, code, {}, clients=clients, other_user=os.geteuid() == 0)
    variables = process_environment(spec, command, code, log_stream="bench", credentials={})
    return Bare(command.argv, {**variables, "HOME": str(directory), "TMPDIR": str(directory)}, code)


def aws_client(directory: Path, program: Program) -> Bare | None:
    """This Python with AWS's client; ``None`` where that is not installed."""
    if find_spec("awslambdaric") is None:
        return None
    code = _unpack(directory / "aws", program)
    argv = (sys.executable, "-m", "awslambdaric", "index.handler")
    command = Command(argv)
    variables = process_environment(_spec(program), command, code, log_stream="bench", credentials={})
    return Bare(argv, {**variables, "HOME": str(directory), "TMPDIR": str(directory)}, code)


def _unpack(directory: Path, program: Program) -> Path:
    code = directory / f"code-{program.runtime}"
    code.mkdir(parents=True)
    (code / program.file.replace("__", ".")).write_text(program.code)
    return code


def _spec(program: Program) -> FunctionSpec:
    return FunctionSpec(
        account="000000000000",
        region="us-east-1",
        function="bench",
        version="$LATEST",
        runtime=program.runtime,
        handler="index.handler",
        timeout_s=30,
        memory_mb=512,
        ephemeral_mb=512,
        environment={},
        code_sha256="",
        revision="",
    )


@contextmanager
def _process(argv: Sequence[str], environ: Mapping[str, str], directory: Path) -> Iterator[None]:
    process = subprocess.Popen(
        argv, env=environ, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()
