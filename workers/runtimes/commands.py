"""The command that starts a runtime as a plain process, or the reason why this machine has none."""

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from workers.contract.messages import FunctionSpec
from workers.runtimes import interpreters
from workers.runtimes.clients import CLIENTS
from workers.runtimes.interpreters import PACKAGES, Interpreter, unreadable

SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/bin:/opt/bin"
"""PATH of a function's process."""
_OTHER_MODES: Final = "run the function in mode docker or docker-reuse"


class RuntimeUnavailable(Exception):
    """This machine can't run the function's runtime as a plain process: one line for the caller says what to do."""


class InvalidEntrypoint(RuntimeUnavailable):
    """The function's code lacks the program that its runtime starts: the function's fault.

    AWS answers ``{"errorType": "Runtime.InvalidEntrypoint", "errorMessage": "RequestId: <id> Error: <message>"}``.
    """

    error_type: Final = "Runtime.InvalidEntrypoint"


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute for a runtime, and the variables that only this runtime has."""

    argv: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def runtime_command(
    spec: FunctionSpec,
    code_dir: Path,
    overrides: Mapping[str, str],
    *,
    clients: Path = CLIENTS,
    other_user: bool = False,
    search_path: str | None = None,
) -> Command:
    """The command that runs ``spec``'s runtime on the code in ``code_dir``.

    ``overrides`` maps a runtime to a command line of an interpreter. ``clients`` is where ``install_clients`` put the
    clients. With ``other_user`` an interpreter that only its owner can read is passed over. ``search_path`` has PATH's
    form; by default it is PATH. Raises :class:`RuntimeUnavailable`.
    """
    places = os.pathsep.join(os.get_exec_path()) if search_path is None else search_path
    runtime = spec.runtime
    if runtime.startswith("provided"):
        # AWS leaves AWS_EXECUTION_ENV out on OS-only runtimes, and does not honour the wrapper there.
        return Command((_executable(code_dir, "bootstrap"),), {"LAMBDA_RUNTIME_DIR": "/var/runtime"})
    if runtime == "go1.x":
        return _wrapped(spec, code_dir, Command((_executable(code_dir, spec.handler),), _marks(runtime)))
    if runtime in overrides:
        argv = _overridden(runtime, overrides[runtime], places)
        return _wrapped(spec, code_dir, _with_client(spec, argv, clients, ()))
    found = _first_open(runtime, _search(runtime, places, clients), other_user)
    return _wrapped(spec, code_dir, _with_client(spec, (found.executable,), clients, found.search_path))


def _search(runtime: str, places: str, clients: Path) -> Iterator[Interpreter]:
    if runtime.startswith("python"):
        return interpreters.find_python(runtime.removeprefix("python"), places, clients)
    if runtime.startswith("nodejs") and runtime.endswith(".x"):
        return interpreters.find_node(runtime.removeprefix("nodejs").removesuffix(".x"), places)
    for family, name in (("dotnet", ".NET"), ("ruby", "Ruby"), ("java", "Java")):
        if runtime.startswith(family):
            raise RuntimeUnavailable(f"runtime {runtime} does not run in mode local ({name}); {_OTHER_MODES}")
    raise RuntimeUnavailable(f"runtime {runtime!r} is not known")


def _first_open(runtime: str, found: Iterator[Interpreter], other_user: bool) -> Interpreter:
    closed = ""
    for interpreter in found:
        place = unreadable((interpreter.executable,)) if other_user else None
        if place is None:
            return interpreter
        closed = closed or f"{interpreter.executable}, which functions can't use: {place} is closed to other users"
    wanted = f"Node.js {runtime[6:-2]}" if runtime.startswith("nodejs") else runtime
    state = f"found only as {closed}" if closed else "which was not found"
    raise RuntimeUnavailable(
        f"runtime {runtime} needs {wanted} on this machine, {state}; install it, "
        f"map it with EVERWARM_LOCAL_RUNTIMES, or {_OTHER_MODES}"
    )


def _overridden(runtime: str, line: str, places: str) -> tuple[str, ...]:
    try:
        argv = shlex.split(line)
    except ValueError as error:
        raise RuntimeUnavailable(f"EVERWARM_LOCAL_RUNTIMES maps {runtime} to {line!r}: {error}") from error
    program = shutil.which(argv[0], path=places) if argv else None
    if program is None:
        raise RuntimeUnavailable(f"EVERWARM_LOCAL_RUNTIMES maps {runtime} to {line!r}, which is no program here")
    return (program, *argv[1:])


def _with_client(spec: FunctionSpec, argv: tuple[str, ...], clients: Path, search_path: tuple[str, ...]) -> Command:
    if spec.runtime.startswith("python"):
        client = clients / "python" / "bootstrap.py"
        if spec.hot_reload_path:
            # The directory is not ours to write to; and compiled files tell edits apart by the second and the size.
            argv = (*argv, "-B")
    else:
        client = clients / "node" / "bootstrap.js"
        argv = (*argv, *_node_options(spec.memory_mb))
    marks = _marks(spec.runtime)
    marks["LAMBDA_RUNTIME_DIR"] = str(client.parent)
    folder = str(Path(argv[0]).parent)
    if folder not in SYSTEM_PATH.split(":"):
        marks["PATH"] = f"{folder}:{SYSTEM_PATH}"
    if str(PACKAGES) in search_path:  # installed beside the function's interpreter: hide Everwarm from the function
        marks["_EVERWARM_HIDDEN_PATH"] = str(PACKAGES)
    return Command((*argv, str(client)), marks)


def _node_options(memory_mb: int) -> tuple[str, ...]:
    """AWS's options: the collector must know the memory limit, which V8 can't see from within a process."""
    young_mb = memory_mb // 10
    return (
        "--expose-gc",
        "--max-http-header-size=81920",
        f"--max-semi-space-size={max(young_mb // 2, 1)}",
        f"--max-old-space-size={memory_mb - young_mb}",
    )


def _marks(runtime: str) -> dict[str, str]:
    return {"AWS_EXECUTION_ENV": f"AWS_Lambda_{runtime}", "LAMBDA_RUNTIME_DIR": "/var/runtime"}


def _wrapped(spec: FunctionSpec, code_dir: Path, plain: Command) -> Command:
    """Honour ``AWS_LAMBDA_EXEC_WRAPPER``: a script that gets the runtime's command as its arguments."""
    wrapper = spec.environment.get("AWS_LAMBDA_EXEC_WRAPPER")
    if not wrapper:
        return plain
    if wrapper.startswith("/var/task/"):
        wrapper = str(code_dir / wrapper.removeprefix("/var/task/"))
    if not os.access(code_dir / wrapper, os.X_OK):
        raise InvalidEntrypoint(f"fork/exec {spec.environment['AWS_LAMBDA_EXEC_WRAPPER']}: no such executable file")
    return Command((str(code_dir / wrapper), *plain.argv), plain.environment)


def _executable(code_dir: Path, name: str) -> str:
    path = code_dir / name
    if not path.is_file():
        if name == "bootstrap":
            raise InvalidEntrypoint("Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]")
        raise InvalidEntrypoint(f"fork/exec /var/task/{name}: no such file or directory")
    if not path.stat().st_mode & 0o111:
        raise InvalidEntrypoint(f"fork/exec /var/task/{name}: permission denied")
    return str(path)
