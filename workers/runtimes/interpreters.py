"""Interpreters on this machine, found by version on PATH.

A candidate counts only after it has been run once: a launcher (pyenv, nvm, asdf) may stand under a name whose version
is not installed, and costs 50 ms at every start where the interpreter behind it costs 10. The answer is kept until the
file changes. No function gets Everwarm's own virtual environment: the interpreter that it was made
from is taken instead.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from workers.runtimes.clients import CLIENTS

PACKAGES: Final = Path(__file__).parents[2]
"""The folder that holds Everwarm's own packages."""

_PROBE_TIMEOUT_S: Final = 20
# Compiles the client for this version as well, when its folder can be written: it saves 5 ms at every start.
_PYTHON_PROBE: Final = """
import sys
print("%d.%d" % sys.version_info[:2], sys.executable, *sys.path, sep="\\n")
try:
    from py_compile import compile
    for source in sys.argv[1:]:
        compile(source)
except OSError:
    pass
"""
_NODE_PROBE: Final = "console.log(process.versions.node); console.log(process.execPath)"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """An interpreter that was run and told its version."""

    version: str
    """``3.12`` for Python, ``20`` for Node.js."""
    executable: str
    """Absolute path of the interpreter itself, past any launcher."""
    search_path: tuple[str, ...] = ()
    """Where a Python looks for modules of its own."""


def find_python(version: str, search_path: str, clients: Path = CLIENTS) -> Iterator[Interpreter]:
    """Yield Pythons of ``version`` (``3.12``), the first on ``search_path`` (PATH's form) first."""
    base = Path(getattr(sys, "_base_executable", sys.executable))
    for candidate in (*_candidates((f"python{version}", "python3", "python"), search_path), base):
        place = base if _in_own_environment(candidate) else candidate
        found = _probe_file(place, "python", clients)
        if found is not None and found.version == version:
            yield found


def find_node(major: str, search_path: str) -> Iterator[Interpreter]:
    """Yield Node.js of ``major`` (``20``), the first on ``search_path`` (PATH's form) first."""
    for candidate in _candidates((f"node{major}", f"node-{major}", f"nodejs{major}", "node", "nodejs"), search_path):
        found = _probe_file(candidate, "node", CLIENTS)
        if found is not None and found.version == major:
            yield found


def unreadable(argv: Sequence[str]) -> str | None:
    """The first file or folder of a command that a user outside its owner and group can't read or enter.

    Functions of a worker that runs as root have users of their own, so what the command names must be open to all.
    """
    for argument in argv:
        if not Path(argument).is_absolute():
            continue
        path = Path(argument).resolve()
        for place in (*reversed(path.parents), path):
            if not _open_to_others(place):
                return str(place)
    return None


def _open_to_others(place: Path) -> bool:
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return bool(mode & (0o001 if place.is_dir() else 0o004))


def _candidates(names: Sequence[str], search_path: str) -> Iterator[Path]:
    for name in names:
        for folder in search_path.split(os.pathsep):
            candidate = Path(folder, name)
            if candidate.is_absolute() and os.access(candidate, os.X_OK) and candidate.is_file():
                yield candidate


def _in_own_environment(candidate: Path) -> bool:
    return sys.prefix != sys.base_prefix and candidate.parent.resolve() == (Path(sys.prefix) / "bin").resolve()


def _probe_file(candidate: Path, family: str, clients: Path) -> Interpreter | None:
    try:
        stamp = candidate.stat().st_mtime_ns
    except OSError:
        return None
    return _probe(str(candidate), stamp, family, str(clients))


@lru_cache(maxsize=256)
def _probe(candidate: str, _stamp: int, family: str, clients: str) -> Interpreter | None:
    if family == "python":
        sources = [str(path) for path in sorted(Path(clients, "python").glob("_*.py"))]
        argv = [candidate, "-I", "-c", _PYTHON_PROBE, *sources]
    else:
        argv = [candidate, "-e", _NODE_PROBE]
    try:
        done = subprocess.run(
            argv,
            check=False,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            umask=0o022,  # what it compiles is for the functions' users to read
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) < 2:
        return None
    if family == "python":
        return Interpreter(lines[0], lines[1], tuple(lines[2:]))
    return Interpreter(lines[0].partition(".")[0], lines[1])
