"""Which command and which environment a function's runtime is started with."""

import os
import shlex
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.contract.messages import FunctionSpec
from workers.runtimes import interpreters
from workers.runtimes.clients import CLIENTS, install_clients
from workers.runtimes.commands import Command, InvalidEntrypoint, RuntimeUnavailable, runtime_command
from workers.runtimes.variables import process_environment

BASE = sys._base_executable  # type: ignore[attr-defined]
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
ABSENT = "3.10" if VERSION != "3.10" else "3.9"


def _spec(runtime: str, handler: str = "sample.handler", memory_mb: int = 128, **environment: str) -> FunctionSpec:
    return FunctionSpec(
        account="000000000000",
        region="eu-west-1",
        function="sample",
        version="7",
        runtime=runtime,
        handler=handler,
        timeout_s=3,
        memory_mb=memory_mb,
        ephemeral_mb=512,
        environment=environment,
        code_sha256="",
        revision="r",
    )


def _program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., str]:
    """Make a folder of a PATH with the given programs and return it."""

    def make(**scripts: str) -> str:
        place = tmp_path / f"bin{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        for name, script in scripts.items():
            _program(place / name.replace("_", "."), script)
        return str(place)

    return make


def test_python_by_its_version(folder: Callable[..., str], tmp_path: Path) -> None:
    place = folder(**{f"python{VERSION}": f'exec {BASE} "$@"'})
    command = runtime_command(_spec(f"python{VERSION}"), tmp_path, {}, search_path=place)
    # The interpreter itself, not the launcher that stands on PATH.
    assert command.argv == (
        str(Path(BASE)),
        str(CLIENTS / "python" / "bootstrap.py"),
    ) or Path(command.argv[0]).samefile(BASE)
    assert command.environment["AWS_EXECUTION_ENV"] == f"AWS_Lambda_python{VERSION}"


def test_a_name_that_lies_about_its_version_is_passed_over(folder: Callable[..., str], tmp_path: Path) -> None:
    place = folder(**{f"python{ABSENT}": f'exec {BASE} "$@"', "python3": "exit 127", "python": "echo 3.10"})
    with pytest.raises(RuntimeUnavailable) as caught:
        runtime_command(_spec(f"python{ABSENT}"), tmp_path, {}, search_path=place)
    assert str(caught.value) == (
        f"runtime python{ABSENT} needs python{ABSENT} on this machine, which was not found; install it, "
        "map it with EVERWARM_LOCAL_RUNTIMES, or run the function in mode docker or docker-reuse"
    )


def test_a_launcher_without_its_interpreter_is_passed_over(folder: Callable[..., str], tmp_path: Path) -> None:
    broken = folder(**{f"python{VERSION}": "echo no such version >&2; exit 127"})
    sound = folder(**{f"python{VERSION}": f'exec {BASE} "$@"'})
    command = runtime_command(
        _spec(f"python{VERSION}"), tmp_path, {}, search_path=os.pathsep.join((broken, "relative", "/absent", sound))
    )
    assert Path(command.argv[0]).samefile(BASE)


def test_python_of_everwarms_own_environment_is_never_used(tmp_path: Path) -> None:
    if sys.prefix == sys.base_prefix:
        pytest.skip("the tests do not run in a virtual environment")
    found = list(interpreters.find_python(VERSION, str(Path(sys.prefix) / "bin")))
    assert found
    for interpreter in found:
        assert not interpreter.executable.startswith(sys.prefix)
        assert not [entry for entry in interpreter.search_path if entry.startswith(sys.prefix)]


def test_node_by_its_major_version(folder: Callable[..., str], tmp_path: Path) -> None:
    old = folder(node="echo 18.20.4; echo /opt/node18/bin/node")
    new = folder(nodejs="echo 22.3.0; echo /opt/node22/bin/node")
    for major in ("18", "22"):
        command = runtime_command(
            _spec(f"nodejs{major}.x", memory_mb=512), tmp_path, {}, search_path=os.pathsep.join((old, new))
        )
        assert command.argv == (
            f"/opt/node{major}/bin/node",
            "--expose-gc",
            "--max-http-header-size=81920",
            "--max-semi-space-size=25",
            "--max-old-space-size=461",
            str(CLIENTS / "node" / "bootstrap.js"),
        )
        assert command.environment["PATH"].startswith(f"/opt/node{major}/bin:/usr/local/bin:")
    with pytest.raises(RuntimeUnavailable, match="needs Node.js 20 on this machine, which was not found"):
        runtime_command(_spec("nodejs20.x"), tmp_path, {}, search_path=old)


def test_an_interpreter_is_asked_once_until_it_changes(folder: Callable[..., str], tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    place = folder(node=f"echo x >> {asked}; echo 18.1.0; echo /opt/node")
    for _ in range(3):
        next(interpreters.find_node("18", place))
    assert asked.read_text() == "x\n"
    program = _program(Path(place) / "node", f"echo x >> {asked}; echo 20.1.0; echo /opt/node")
    os.utime(program, (1, 1))
    assert next(interpreters.find_node("18", place), None) is None
    assert asked.read_text() == "x\nx\n"


def test_an_interpreter_may_be_given_by_a_command_line(folder: Callable[..., str], tmp_path: Path) -> None:
    place = folder(mypython=f'exec {BASE} "$@"')
    line = f"{place}/mypython -X dev"
    command = runtime_command(_spec(f"python{ABSENT}"), tmp_path, {f"python{ABSENT}": line})
    assert command.argv == (*shlex.split(line), str(CLIENTS / "python" / "bootstrap.py"))
    assert command.environment["AWS_EXECUTION_ENV"] == f"AWS_Lambda_python{ABSENT}"
    by_name = runtime_command(_spec("python3.9"), tmp_path, {"python3.9": "mypython"}, search_path=place)
    assert by_name.argv[0] == f"{place}/mypython"


@pytest.mark.parametrize("line", ["", "/no/such/python", "'unclosed"])
def test_overrides_that_lead_nowhere(line: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="EVERWARM_LOCAL_RUNTIMES maps python3.9 to "):
        runtime_command(_spec("python3.9"), tmp_path, {"python3.9": line})


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ("java21", "runtime java21 does not run in mode local (Java); run the function in mode docker or docker-reuse"),
        ("dotnet8", "runtime dotnet8 does not run in mode local (.NET); run the function in mode docker or"),
        ("ruby3.3", "runtime ruby3.3 does not run in mode local (Ruby); run the function in mode docker or"),
        ("cobol", "runtime 'cobol' is not known"),
    ],
)
def test_runtimes_that_mode_local_lacks(runtime: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable) as caught:
        runtime_command(_spec(runtime), tmp_path, {})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", ["provided", "provided.al2", "provided.al2023"])
def test_a_custom_runtime_without_bootstrap_is_refused_in_awss_words(runtime: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidEntrypoint) as caught:
        runtime_command(_spec(runtime), tmp_path, {})
    assert str(caught.value) == "Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]"
    assert caught.value.error_type == "Runtime.InvalidEntrypoint"
    program = _program(tmp_path / "bootstrap", "")
    assert runtime_command(_spec(runtime, AWS_LAMBDA_EXEC_WRAPPER="/x"), tmp_path, {}) == Command(
        (str(program),), {"LAMBDA_RUNTIME_DIR": "/var/runtime"}
    )
    program.chmod(0o644)
    with pytest.raises(InvalidEntrypoint, match="fork/exec /var/task/bootstrap: permission denied"):
        runtime_command(_spec(runtime), tmp_path, {})


def test_go_runs_the_program_that_the_handler_names(tmp_path: Path) -> None:
    with pytest.raises(InvalidEntrypoint, match="fork/exec /var/task/main: no such file or directory"):
        runtime_command(_spec("go1.x", "main"), tmp_path, {})
    program = _program(tmp_path / "main", "")
    assert runtime_command(_spec("go1.x", "main"), tmp_path, {}).argv == (str(program),)


def test_the_wrapper_gets_the_command_as_its_arguments(tmp_path: Path) -> None:
    plain = runtime_command(_spec(f"python{VERSION}"), tmp_path, {})
    wrapper = _program(tmp_path / "wrap", "")
    for name in ("/var/task/wrap", str(wrapper)):
        spec = _spec(f"python{VERSION}", AWS_LAMBDA_EXEC_WRAPPER=name)
        assert runtime_command(spec, tmp_path, {}).argv == (str(wrapper), *plain.argv)
    with pytest.raises(InvalidEntrypoint, match="/var/task/absent"):
        runtime_command(_spec(f"python{VERSION}", AWS_LAMBDA_EXEC_WRAPPER="/var/task/absent"), tmp_path, {})


def test_the_environment_is_awss_and_the_functions_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EVERWARM_PLANTED", "secret")
    spec = _spec("nodejs20.x", OWN="1", TZ="Europe/Rome", PATH="/own", _HANDLER="stolen", AWS_REGION="mars")
    started = Command(("node",), {"AWS_EXECUTION_ENV": "AWS_Lambda_nodejs20.x", "LAMBDA_RUNTIME_DIR": "/r"})
    assert process_environment(
        spec, started, tmp_path, log_stream="2026/01/01/[7]abc", credentials={"AWS_ACCESS_KEY_ID": "key"}
    ) == {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EXECUTION_ENV": "AWS_Lambda_nodejs20.x",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_FUNCTION_NAME": "sample",
        "AWS_LAMBDA_FUNCTION_VERSION": "7",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/sample",
        "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[7]abc",
        "AWS_REGION": "eu-west-1",
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "LAMBDA_RUNTIME_DIR": "/r",
        "LAMBDA_TASK_ROOT": str(tmp_path),
        "LANG": "en_US.UTF-8",
        "LD_LIBRARY_PATH": f"{tmp_path}:{tmp_path}/lib:/opt/lib",
        "OWN": "1",
        "PATH": "/own",
        "TZ": "Europe/Rome",
        "_HANDLER": "sample.handler",
    }


def test_install_copies_what_every_user_can_read(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        place = install_clients(tmp_path / "deep" / "clients")
        install_clients(place)
    finally:
        os.umask(old)
    files = {path.relative_to(place): path for path in place.rglob("*") if path.is_file()}
    sources = {
        path.relative_to(CLIENTS)
        for family in ("python", "node")
        for path in (CLIENTS / family).iterdir()
        if path.is_file()
    }
    assert set(files) == sources
    for path in files.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(place.stat().st_mode) == 0o755


def test_unreadable_names_what_is_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    program = _program(closed / "bin" / "node", "")
    closed.chmod(0o700)
    assert interpreters.unreadable(("/bin/sh", "-c", "relative/words")) is None
    assert interpreters.unreadable(("/bin/sh", str(program))) == _first_closed(program)
    assert interpreters.unreadable(("/no/such/place",)) is None


def _first_closed(path: Path) -> str:
    for place in (*reversed(path.parents), path):
        if not place.stat().st_mode & 0o001:
            return str(place)
    raise AssertionError(path)


def test_an_interpreter_that_only_its_owner_reads_is_passed_over(folder: Callable[..., str], tmp_path: Path) -> None:
    closed = _program(tmp_path / "closed" / "node", "")
    closed.parent.chmod(0o700)
    first = folder(node=f"echo 18.1.0; echo {closed}")
    place = os.pathsep.join((first, folder(node="echo 18.2.0; echo /bin/sh")))
    assert runtime_command(_spec("nodejs18.x"), tmp_path, {}, search_path=place).argv[0] == str(closed)
    assert runtime_command(_spec("nodejs18.x"), tmp_path, {}, search_path=place, other_user=True).argv[0] == "/bin/sh"
    with pytest.raises(RuntimeUnavailable) as caught:
        runtime_command(_spec("nodejs18.x"), tmp_path, {}, search_path=first, other_user=True)
    assert f"found only as {closed}, which functions can't use: " in str(caught.value)
