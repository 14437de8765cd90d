"""The sample custom runtime, a shell script, against a real Runtime API."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from tests.services import runtime_api
from tests.services.runtime_api import REQUEST_ID, RuntimeProcess
from workers.contract.messages import FunctionSpec
from workers.runtimes.commands import runtime_command
from workers.runtimes.variables import process_environment

FUNCTIONS = Path(__file__).parents[1] / "functions" / "provided"


def _start(handler: str, environment: Mapping[str, str] | None = None) -> AbstractContextManager[RuntimeProcess]:
    spec = FunctionSpec(
        account="000000000000",
        region="us-east-1",
        function="sample",
        version="$LATEST",
        runtime="provided.al2023",
        handler=handler,
        timeout_s=3,
        memory_mb=128,
        ephemeral_mb=512,
        environment=dict(environment or {}),
        code_sha256="",
        revision="r",
    )
    command = runtime_command(spec, FUNCTIONS, {})
    variables = process_environment(spec, command, FUNCTIONS, log_stream="stream", credentials={})
    return runtime_api.run(command.argv, variables, FUNCTIONS)


def test_a_bootstrap_in_shell_answers() -> None:
    with _start("shell.echo") as process:
        for text in ("1", json.dumps({"text": "ü" * 5000})):
            report = process.invoke(text.encode())
            assert (report.path, report.body.decode()) == (f"/invocation/{REQUEST_ID}/response", text)
    assert process.output.startswith("a bash runtime started\ngot 1 bytes\n")


def test_greets_without_a_known_handler() -> None:
    with _start("shell.handler") as process:
        assert json.loads(process.invoke().body) == {"hello": "from bash"}


def test_a_bootstrap_in_shell_reports_an_error() -> None:
    with _start("shell.fail") as process:
        report = process.invoke()
        assert report.ending == "error"
        assert json.loads(report.body) == {"errorMessage": "on purpose", "errorType": "Shell.Failure"}


def test_a_bootstrap_that_exits_ends_with_its_status() -> None:
    with _start("shell.exit") as process:
        process.send()
        assert process.ends() == 5
