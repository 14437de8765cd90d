"""``everwarm demo``: everything at once, in a temporary directory, and nothing of it stays."""

import base64
import importlib.resources
import io
import json
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, cast

import boto3
from botocore.config import Config
from rich.table import Table

from dispatcher.cli.client import Server
from dispatcher.cli.part import PYTHON, ask_worker
from dispatcher.cli.process import spawn
from dispatcher.cli.show import terminal
from dispatcher.cli.up import UpError

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_lambda.literals import RuntimeType

_ACCOUNT: Final = "000000000000"
_EVENT: Final = {"name": "Ada"}
_WARM_CALLS: Final = 50
_START_S: Final = 60.0
_STOP_S: Final = 12.0
#: The only settings of the caller that the demo keeps: what says how functions run on this machine.
_KEPT: Final = frozenset({"EVERWARM_LOCAL_RUNTIMES", "EVERWARM_LOCAL_UIDS"})


class Sample(NamedTuple):
    """A function in the folder ``samples``."""

    title: str
    name: str
    runtime: "RuntimeType"
    file: str
    handler: str


class Result(NamedTuple):
    """What the calls of a sample gave."""

    sample: Sample
    answer: Any
    log: str
    first_ms: float
    warm_ms: float
    """Median."""


def run_demo(environ: Mapping[str, str]) -> int:
    """Show every sample; the exit status, 1 when a sample was not kept warm.

    Raises :class:`UpError` when the server does not start.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    own = {
        name: value for name, value in environ.items() if name in _KEPT or not name.startswith(("EVERWARM_", "LAMBDA_"))
    }
    # Mode local, whatever else this machine could do: it needs no images. One server, no worker beside it.
    own |= {"LAMBDA_EXECUTOR": "local", "EVERWARM_IMAGE_WORKER": "0"}
    console = terminal()
    samples, missing = _samples(ask_worker("workers.doctor", own)["runtimes"])
    for line in missing:
        console.print(line)
    with _server(own) as endpoint:
        console.print(f"Everwarm runs at {endpoint}.\n")
        client = boto3.client(
            "lambda",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=_ACCOUNT,
            aws_secret_access_key="demo",
            config=Config(retries={"total_max_attempts": 1}),
        )
        results = []
        for sample in samples:
            result = _call_sample(client, sample)
            results.append(result)
            console.print(f"{sample.title} ({sample.runtime})", style="bold")
            console.print(f"  result  {json.dumps(result.answer)}")
            console.print(*(f"  log     {line}" for line in result.log.rstrip().splitlines()), sep="\n")
            console.print()
    console.print(_table(results))
    console.print("\nEverything is stopped, and nothing is left behind.")
    cold = [result.sample.title for result in results if result.answer["calls"] == 1]
    if cold:
        console.print(f"Not kept warm: {', '.join(cold)}", style="bold red")
    return int(bool(cold))


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """A signal to stop still runs what cleans up."""
    raise KeyboardInterrupt


def _samples(runtimes: list[dict[str, str]]) -> tuple[list[Sample], list[str]]:
    """The samples that this machine can run, and a line for each that it can't."""
    available = [row["runtime"] for row in runtimes if row["command"]]
    samples, missing = [], []
    for family, title, file in (("python", "Python", "hello.py"), ("nodejs", "Node.js", "hello.mjs")):
        newest = [runtime for runtime in available if runtime.startswith(family)][-1:]
        samples += [
            Sample(title, f"hello-{family}", cast("RuntimeType", runtime), file, "hello.handler") for runtime in newest
        ]
        if not newest:
            reasons = [
                row["problem"] for row in runtimes if row["runtime"].startswith(family) and "closed" in row["problem"]
            ]
            missing.append(f"{title} is left out: {reasons[-1] if reasons else 'no interpreter is installed'}.")
    if shutil.which("bash", path="/bin:/usr/bin"):
        samples.append(Sample("Custom runtime in bash", "hello-bash", "provided.al2023", "bootstrap", "unused"))
    else:
        missing.append("The custom runtime is left out: no bash is installed.")
    return samples, missing


@contextmanager
def _server(environ: Mapping[str, str]) -> Iterator[str]:
    """A whole Everwarm on a free port; its endpoint. Afterwards its processes and files are gone."""
    folder = Path(tempfile.mkdtemp(prefix="everwarm-demo-"))
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = folder / "up.log"
        with log.open("wb") as output:
            argv = [*PYTHON, "-m", "dispatcher.cli", "up", "--port", str(port), "--data", str(folder / "data")]
            process = spawn(argv, {**environ, "EVERWARM_LOG": "text"}, output=output)
        try:
            endpoint = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, endpoint, log)
            yield endpoint
        except Exception:
            print(log.read_text(errors="replace"), file=sys.stderr)
            raise
        finally:
            process.terminate()
            _await_end(process)
    finally:
        shutil.rmtree(folder)


def _wait_until_ready(process: "subprocess.Popen[bytes]", endpoint: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    server = Server(endpoint)
    while not server.healthy():
        if process.poll() is not None or time.monotonic() > deadline:
            raise UpError(f"the demo's server does not start; what it said stands above ({log.name})")
        time.sleep(0.05)


def _await_end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _call_sample(client: "LambdaClient", sample: Sample) -> Result:
    client.create_function(
        FunctionName=sample.name,
        Runtime=sample.runtime,
        Handler=sample.handler,
        Role=f"arn:aws:iam::{_ACCOUNT}:role/demo",
        Code={"ZipFile": _zip(sample.file)},
        Timeout=10,
    )
    client.get_waiter("function_active_v2").wait(FunctionName=sample.name, WaiterConfig={"Delay": 1})
    first_ms, _, _ = _call(client, sample.name)
    warm = [_call(client, sample.name) for _ in range(_WARM_CALLS)]
    _, answer, log = warm[-1]
    return Result(sample, answer, log, first_ms, statistics.median(ms for ms, _, _ in warm))


def _call(client: "LambdaClient", name: str) -> tuple[float, Any, str]:
    began = time.perf_counter()
    response = client.invoke(FunctionName=name, Payload=json.dumps(_EVENT).encode(), LogType="Tail")
    answer = json.loads(response["Payload"].read())
    took_ms = (time.perf_counter() - began) * 1000
    if "FunctionError" in response:
        raise UpError(f"{name} failed: {answer}")
    return took_ms, answer, base64.b64decode(response["LogResult"]).decode()


def _zip(file: str) -> bytes:
    buffer = io.BytesIO()
    content = importlib.resources.files("dispatcher.cli").joinpath("samples", file).read_bytes()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo(file)
        entry.external_attr = 0o755 << 16
        archive.writestr(entry, content)
    return buffer.getvalue()


def _table(results: list[Result]) -> Table:
    table = Table("FUNCTION", "RUNTIME", "FIRST CALL", "WARM CALL", box=None)
    for result in results:
        table.add_row(
            result.sample.title, result.sample.runtime, f"{result.first_ms:.1f} ms", f"{result.warm_ms:.1f} ms"
        )
    table.caption = f"through boto3; warm is the median of {_WARM_CALLS}"
    return table
