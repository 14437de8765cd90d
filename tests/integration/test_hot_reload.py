"""Code edited in place: the invocation after an edit runs it in a fresh process, and nothing else does."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.services.calls import start_call, wait_until_handed_back, wait_until_running
from tests.services.functions import ROLE, Functions, runtime_of
from tests.services.local import python_runtime
from tests.services.processes import look
from tests.services.stack import Stack
from tests.services.waiting import wait_until

SOURCE = """
import os, time
def handler(event, context):
    time.sleep(event.get("s", 0))
    return ["{word}", os.getpid()]
"""


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A directory that every user can read, as code that people edit is."""
    path = Path(tempfile.mkdtemp(prefix="everwarm-test-hot-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def stack_with_roots(root: Path) -> Iterator[Stack]:
    """A stack that reloads what is below ``root``."""
    stack = Stack({"EVERWARM_HOT_RELOAD_ROOTS": str(root)})
    try:
        yield stack.start()
    finally:
        stack.close()


@pytest.fixture
def functions(stack_with_roots: Stack) -> Functions:
    """Functions on it."""
    return Functions(stack_with_roots)


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
    name = code.name.replace("_", "-") + f"-{os.getpid()}-{len(functions.client.list_functions()['Functions'])}"
    request: dict[str, Any] = {
        "FunctionName": name, "Runtime": python_runtime(), "Handler": "index.handler", "Role": ROLE, "Timeout": 20,
        "Code": {"S3Bucket": bucket, "S3Key": str(code)}, **members,
    }  # fmt: skip
    functions.client.create_function(**request)
    functions.settle(name)
    return name


@pytest.mark.parametrize("bucket", ["hot-reload", "__local__"])
@pytest.mark.parametrize("edit", [write, replace])
def test_the_invocation_after_an_edit_runs_it(
    functions: Functions, code: Path, edit: Callable[[Path, str], None], bucket: str
) -> None:
    name = deploy(functions, code, bucket)
    word, first = functions.invoke(name, {}).json
    assert word == "first"
    wait_until_handed_back(functions, name)
    assert functions.invoke(name, {}).json == ["first", first], "without an edit it stays warm"
    for number in range(10):
        edit(code / "index.py", SOURCE.format(word=f"edit {number}"))
        word, pid = functions.invoke(name, {}).json
        assert word == f"edit {number}"
        wait_until_handed_back(functions, name)
        assert functions.invoke(name, {}).json == [word, pid]
    wait_until("the first process is gone", lambda: look(first) is None)


def test_an_edit_of_what_the_handler_imports_is_seen(functions: Functions, code: Path) -> None:
    package = code / "package"
    package.mkdir(mode=0o755)
    write(package / "inner.py", "WORD = 'one'")
    write(code / "index.py", "from package.inner import WORD\nhandler = lambda event, context: WORD")
    name = deploy(functions, code)
    assert functions.invoke(name, {}).json == "one"
    write(package / "inner.py", "WORD = 'two'")
    assert functions.invoke(name, {}).json == "two"
    deeper = package / "new" / "deeper"
    deeper.mkdir(mode=0o755, parents=True)
    write(deeper / "more.py", "WORD = 'three'")
    write(package / "inner.py", "from package.new.deeper.more import WORD")
    assert functions.invoke(name, {}).json == "three"
    write(deeper / "more.py", "WORD = 'four!'")
    assert functions.invoke(name, {}).json == "four!"
    (deeper / "more.py").unlink()
    assert functions.invoke(name, {}).json["errorType"] == "Runtime.ImportModuleError"


def test_an_edit_of_a_node_handler_is_seen(functions: Functions, code: Path) -> None:
    write(code / "index.js", "exports.handler = async () => ['one', process.pid];")
    name = deploy(functions, code, Runtime=runtime_of("node"))
    _, pid = functions.invoke(name, {}).json
    wait_until_handed_back(functions, name)
    assert functions.invoke(name, {}).json == ["one", pid]
    write(code / "index.js", "exports.handler = async () => ['two', process.pid];")
    word, other = functions.invoke(name, {}).json
    assert (word, other != pid) == ("two", True)


def test_a_running_call_finishes_on_the_old_code(functions: Functions, code: Path) -> None:
    name = deploy(functions, code)
    running = start_call(functions, name, {"s": 6})
    wait_until_running(functions, name)
    write(code / "index.py", SOURCE.format(word="second"))
    assert functions.invoke(name, {}).json[0] == "second"
    assert not running.done()
    assert running.result(20).json[0] == "first"
    assert functions.invoke(name, {}).json[0] == "second"


def test_all_warm_ones_are_replaced(functions: Functions, code: Path) -> None:
    name = deploy(functions, code)
    calls = [start_call(functions, name, {"s": 0.5}) for _ in range(3)]
    assert {call.result(20).json[0] for call in calls} == {"first"}
    write(code / "index.py", SOURCE.format(word="second"))
    calls = [start_call(functions, name, {"s": 0.5}) for _ in range(3)]
    assert {call.result(20).json[0] for call in calls} == {"second"}


def test_two_functions_on_one_directory(functions: Functions, code: Path) -> None:
    one, other = deploy(functions, code), deploy(functions, code)
    assert functions.invoke(one, {}).json[0] == functions.invoke(other, {}).json[0] == "first"
    write(code / "index.py", SOURCE.format(word="second"))
    assert functions.invoke(one, {}).json[0] == functions.invoke(other, {}).json[0] == "second"


def test_a_broken_edit_and_its_repair(functions: Functions, code: Path) -> None:
    name = deploy(functions, code)
    assert functions.invoke(name, {}).error is None
    write(code / "index.py", "def handler(event, context) return")
    assert functions.invoke(name, {}).json["errorType"] == "Runtime.UserCodeSyntaxError"
    write(code / "index.py", SOURCE.format(word="repaired"))
    assert functions.invoke(name, {}).json[0] == "repaired"


def test_a_directory_that_goes_and_comes_back(functions: Functions, code: Path) -> None:
    name = deploy(functions, code)
    assert functions.invoke(name, {}).json[0] == "first"
    away = code.with_name(code.name + "-away")
    code.rename(away)
    with pytest.raises(ClientError) as caught:
        functions.invoke(name, {})
    assert str(code) in caught.value.response["Error"]["Message"]
    away.rename(code)
    write(code / "index.py", SOURCE.format(word="back"))
    assert functions.invoke(name, {}).json[0] == "back"


def test_the_directory_is_never_changed_or_deleted(functions: Functions, code: Path) -> None:
    before = contents(code)
    name = deploy(functions, code)
    assert functions.invoke(name, {}).error is None
    assert functions.invoke(name, {}).error is None
    functions.client.delete_function(FunctionName=name)
    assert contents(code) == before, "nothing compiled lies beside the code either"


def contents(code: Path) -> dict[str, bytes]:
    """All files."""
    return {str(path.relative_to(code)): path.read_bytes() for path in code.rglob("*") if path.is_file()}


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


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="not as root the function is the user whose directory it is")
def test_a_function_can_not_change_it(functions: Functions, code: Path) -> None:
    write(code / "index.py", TRIES)
    before = contents(code)
    found = functions.invoke(deploy(functions, code), {}).json
    assert "done" not in found
    assert contents(code) == before


def test_only_below_the_roots(functions: Functions, root: Path) -> None:
    for place in ("/etc", "/var/tmp", str(root / ".."), "relative", str(root / "nowhere")):
        with pytest.raises(ClientError) as caught:
            deploy(functions, Path(place) if place != "relative" else Path("relative"))
        assert caught.value.response["Error"]["Code"] == "InvalidParameterValueException"
