"""How a function's runtime is started as a plain process: its command and its environment.

Words: a *runtime* is AWS's identifier (``python3.12``); a *family* is what its name begins with and decides what is
started; a *client* is the small program of ours that speaks AWS's Runtime API inside the function's process. The
clients lie in ``python/`` and ``node/`` as plain package data and import nothing of Everwarm: they run under the
function's interpreter, whose version need not be ours.

Everything here looks things up and decides; nothing is started but the interpreters that are asked for their version.
"""

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from workers.contract.messages import FunctionSpec
from workers.contract.variables import RESERVED
from workers.runtimes import interpreters
from workers.runtimes.interpreters import CLIENTS, PACKAGES, Interpreter, unreadable
from workers.runtimes.variables import standard

__all__ = [
    "Command",
    "InvalidEntrypoint",
    "RuntimeUnavailable",
    "command",
    "environment",
    "install",
    "unreadable",
]

_CLIENT_FILES: Final = (
    "python/bootstrap.py",
    "python/_everwarm_client.py",
    "python/_everwarm_details.py",
    "node/bootstrap.js",
    "node/api.js",
    "node/errors.js",
    "node/handler.js",
    "node/logs.js",
    "node/stream.js",
)
_OTHER_MODES: Final = "run the function in mode docker or docker-reuse"
_SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/bin:/opt/bin"


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


def command(
    spec: FunctionSpec,
    code_dir: Path,
    overrides: Mapping[str, str],
    *,
    clients: Path = CLIENTS,
    other_user: bool = False,
    search_path: str | None = None,
) -> Command:
    """The command that runs ``spec``'s runtime on the code in ``code_dir``.

    ``overrides`` maps a runtime to a command line of an interpreter. ``clients`` is where :func:`install` put the
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


def environment(
    spec: FunctionSpec,
    started: Command,
    code_dir: Path,
    *,
    log_stream: str,
    credentials: Mapping[str, str],
) -> dict[str, str]:
    """All variables of a function's process but ``AWS_LAMBDA_RUNTIME_API``, ``HOME`` and ``TMPDIR``.

    AWS's standard variables, then ``credentials`` (``AWS_ACCESS_KEY_ID``, …), then the function's own, which override
    all but :data:`RESERVED`. Nothing of the worker's environment is in it.
    """
    task_root = str(code_dir)
    result = {
        "PATH": _SYSTEM_PATH,
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "LD_LIBRARY_PATH": f"{task_root}:{task_root}/lib:/opt/lib",
        **credentials,
        **standard(spec, log_stream),
        "_HANDLER": spec.handler,
        "LAMBDA_TASK_ROOT": task_root,
        **started.environment,
    }
    result.update((name, value) for name, value in spec.environment.items() if name not in RESERVED)
    return result


def install(directory: Path) -> Path:
    """Copy the clients into ``directory`` (made when missing), open to every user of the machine. Returns it."""
    for name in _CLIENT_FILES:
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(CLIENTS / name, fresh)
        fresh.chmod(0o644)
        fresh.replace(target)
        target.parent.chmod(0o755)
    directory.chmod(0o755)
    return directory


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
    if folder not in _SYSTEM_PATH.split(":"):
        marks["PATH"] = f"{folder}:{_SYSTEM_PATH}"
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
