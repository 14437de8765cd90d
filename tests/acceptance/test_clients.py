"""AWS's own clients against a running stack: the command line from PyPI, and the SDK for JavaScript from npm."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.code import zip_of
from tests.services.commands import clean_environ
from tests.services.local import python_runtime
from tests.services.programs import require
from tests.services.stack import Stack

CODE = """
import os

def handler(event, context):
    if event.get("fail"):
        raise KeyError("asked for")
    print("seen", event)
    return {"n": event["n"] + 1, "word": os.environ.get("WORD")}
"""


@pytest.fixture
def zip_file(tmp_path: Path) -> Path:
    path = tmp_path / "code.zip"
    path.write_bytes(zip_of(index__py=CODE))
    return path


def test_aws_cli_creates_invokes_and_deletes(stack: Stack, zip_file: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("aws")
    environ = clean_environ(
        {
            "AWS_ACCESS_KEY_ID": "000000000000",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL_LAMBDA": stack.endpoint,
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        }
    )

    def aws(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(program), "lambda", *arguments, "--output", "json"]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)

    def answer(*arguments: str) -> dict[str, object]:
        done = aws(*arguments)
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout or "{}")
        return found

    name = ("--function-name", "from-cli")
    created = answer(
        "create-function", *name, "--runtime", python_runtime(), "--handler", "index.handler",
        "--role", "arn:aws:iam::000000000000:role/r", "--zip-file", f"fileb://{zip_file}",
        "--environment", "Variables={WORD=hello}",
    )  # fmt: skip
    assert created["FunctionArn"] == "arn:aws:lambda:eu-west-1:000000000000:function:from-cli"
    answer("wait", "function-active-v2", *name)
    out = tmp_path / "out.json"
    payload = ("--payload", '{"n": 1}', "--log-type", "Tail", str(out))
    invoked = answer("invoke", *name, *payload)
    assert (invoked["StatusCode"], invoked["ExecutedVersion"]) == (200, "$LATEST")
    assert json.loads(out.read_text()) == {"n": 2, "word": "hello"}
    listed = answer("list-functions")
    assert [row["FunctionName"] for row in listed["Functions"]] == ["from-cli"]  # type: ignore[attr-defined]
    answer("delete-function", *name)
    gone = aws("get-function", *name)
    assert gone.returncode != 0
    assert "ResourceNotFoundException" in gone.stderr


def test_javascript_sdk_creates_invokes_updates_and_deletes(stack: Stack, zip_file: Path, tmp_path: Path) -> None:
    node, npm = require("node", "nodejs"), require("npm", "npm")
    project = tmp_path / "project"
    shutil.copytree(Path(__file__).parent / "node_sdk", project)
    subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"],
        cwd=project, check=True, timeout=110, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    done = subprocess.run(
        [node, "main.mjs", stack.endpoint, str(zip_file), python_runtime()],
        cwd=project, env=clean_environ(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["arn"] == "arn:aws:lambda:eu-central-1:000000000000:function:from-node"
    assert (seen["first"]["status"], seen["first"]["payload"]) == (200, {"n": 2, "word": None})
    assert "seen {'n': 1}" in seen["first"]["log"]
    assert seen["failed"]["error"] == "Unhandled"
    assert seen["failed"]["payload"]["errorType"] == "KeyError"
    assert seen["updated"]["payload"] == {"n": 3, "word": "changed"}
    assert seen["gone"] == {"name": "ResourceNotFoundException", "status": 404}
