"""Code edited in place: every mode runs what stands there when the invocation begins, and never changes it."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.calls import start_call, wait_until_handed_back, wait_until_running
from tests.services.docker import settings_of
from tests.services.functions import ROLE, Functions
from tests.services.stack import Stack

SOURCE = """
import os, time
process = os.urandom(8).hex()
def handler(event, context):
    time.sleep(event.get("s", 0))
    return ["{word}", process, context.log_stream_name[-32:]]
"""


@pytest.fixture(scope="session")
def root() -> Iterator[Path]:
    """A directory that every user can read, as code that people edit is."""
    path = Path(tempfile.mkdtemp(prefix="everwarm-test-hot-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def functions(root: Path, mode: str, shared_stack: Callable[..., Stack]) -> Iterator[Functions]:
    """Functions on a stack that reloads what is below ``root``."""
    found = Functions(
        shared_stack(f"{mode} with hot reload", **settings_of(mode), EVERWARM_HOT_RELOAD_ROOTS=str(root)), mode
    )
    yield found
    found.wait_until_only_warm_ones_are_left()
    found.delete_all()


@pytest.fixture
def code(root: Path) -> Path:
    """A directory with a Python function."""
    path = Path(tempfile.mkdtemp(dir=root))
    path.chmod(0o755)
    write(path / "index.py", SOURCE.format(word="first"))
    return path


def write(path: Path, text: str) -> None:
    """As an editor does that writes in place."""
    path.write_text(text)
    path.chmod(0o644)


def replace(path: Path, text: str) -> None:
    """As an editor does that writes another file and renames it."""
    other = path.with_name(f".{path.name}.swp")
    write(other, text)
    other.rename(path)


def deploy(functions: Functions, code: Path, bucket: str = "hot-reload", **members: Any) -> str:
    """A function on that directory."""
    return functions.create({}, "index.handler", Code={"S3Bucket": bucket, "S3Key": str(code)}, Role=ROLE, **members)


@pytest.mark.parametrize(("edit", "bucket"), [(write, "hot-reload"), (replace, "__local__")])
def test_the_invocation_after_an_edit_runs_it(
    functions: Functions, code: Path, edit: Callable[[Path, str], None], bucket: str
) -> None:
    name = deploy(functions, code, bucket)
    word, process, environment = functions.invoke(name, {}).json
    assert word == "first"
    wait_until_handed_back(functions, name)
    again = functions.invoke(name, {}).json
    assert (again[1] == process) == functions.keeps_process, "without an edit it stays warm"
    assert (again[2] == environment) == functions.keeps_environment
    for number in range(functions.times(4)):
        edit(code / "index.py", SOURCE.format(word=f"edit {number}"))
        assert functions.invoke(name, {}).json[0] == f"edit {number}"


def test_an_edit_of_what_the_handler_imports_is_seen(functions: Functions, code: Path) -> None:
    package = code / "package"
    package.mkdir(mode=0o755)
    write(package / "inner.py", "WORD = 'one'")
    write(code / "index.py", "from package.inner import WORD\nhandler = lambda event, context: WORD")
    name = deploy(functions, code)
    assert functions.invoke(name, {}).json == "one"
    write(package / "inner.py", "WORD = 'two'")
    assert functions.invoke(name, {}).json == "two"


def test_an_edit_of_a_node_handler_is_seen(functions: Functions, code: Path) -> None:
    write(code / "index.js", "exports.handler = async () => 'one';")
    name = deploy(functions, code, Runtime=functions.runtime("node"))
    assert functions.invoke(name, {}).json == "one"
    write(code / "index.js", "exports.handler = async () => 'two';")
    assert functions.invoke(name, {}).json == "two"


def test_a_running_call_finishes_on_the_old_code(functions: Functions, code: Path) -> None:
    name = deploy(functions, code)
    running = start_call(functions, name, {"s": 6 if functions.in_containers else 3})
    wait_until_running(functions, name)
    write(code / "index.py", SOURCE.format(word="second"))
    assert functions.invoke(name, {}).json[0] == "second"
    assert not running.done()
    assert running.result(20).json[0] == "first"


def test_a_broken_edit_and_its_repair(functions: Functions, code: Path) -> None:
    name = deploy(functions, code)
    write(code / "index.py", "def handler(event, context) return")
    assert functions.invoke(name, {}).json["errorType"] == "Runtime.UserCodeSyntaxError"
    write(code / "index.py", SOURCE.format(word="repaired"))
    assert functions.invoke(name, {}).json[0] == "repaired"


TRIES = """
import os, pathlib
def handler(event, context):
    found = []
    for do in (lambda: pathlib.Path("index.py").write_text(""), lambda: pathlib.Path("new").write_text(""),
               lambda: os.unlink("index.py")):
        try:
            do()
            found.append("done")
        except OSError as error:
            found.append(type(error).__name__)
    return found
"""


def test_the_directory_is_never_changed_or_deleted(functions: Functions, code: Path) -> None:
    if functions.kind == "local" and os.geteuid() != 0:
        pytest.skip("not as root the function is the user whose directory it is")
    write(code / "index.py", TRIES)
    code.joinpath("index.py").chmod(0o666)
    code.chmod(0o777)  # the mount itself is read-only, where there is one
    if not functions.in_containers:
        code.joinpath("index.py").chmod(0o644)
        code.chmod(0o755)
    before = contents(code)
    name = deploy(functions, code)
    found = functions.invoke(name, {}).json
    assert "done" not in found
    functions.client.delete_function(FunctionName=name)
    assert contents(code) == before, "nothing compiled lies beside the code either"


def contents(code: Path) -> dict[str, bytes]:
    """All files."""
    return {str(path.relative_to(code)): path.read_bytes() for path in code.rglob("*") if path.is_file()}
