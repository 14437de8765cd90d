"""What processes there are, from ``/proc``."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.services.waiting import wait_until


class Process(NamedTuple):
    """One process; the start time tells it from a later one with the same number."""

    pid: int
    parent: int
    started: int
    state: str
    uid: int
    command: str


def look(pid: int) -> Process | None:
    """The process, or ``None`` when there is none."""
    folder = Path(f"/proc/{pid}")
    try:
        name, _, rest = folder.joinpath("stat").read_text().partition("(")[2].rpartition(")")
        uid = folder.stat().st_uid
        command = folder.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = rest.split()
    return Process(pid, int(fields[1]), int(fields[19]), fields[0], uid, command or f"({name})")


def everything() -> list[Process]:
    """Every process of the machine."""
    found = (look(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [process for process in found if process is not None]


def tree(roots: Iterable[int]) -> list[Process]:
    """The processes ``roots`` and all below them."""
    processes = everything()
    wanted = set(roots)
    grown = True
    while grown:
        below = {process.pid for process in processes if process.parent in wanted} - wanted
        wanted |= below
        grown = bool(below)
    return [process for process in processes if process.pid in wanted]


def children() -> list[Process]:
    """The direct children of this process, ended ones that nobody waited for included."""
    return [process for process in everything() if process.parent == os.getpid()]


def alive(process: Process) -> bool:
    """Whether it still runs: neither gone nor a zombie, nor another with its number."""
    now = look(process.pid)
    return now is not None and now.started == process.started and now.state != "Z"


def wait_until_gone(processes: Iterable[Process], timeout_s: float = 10.0) -> None:
    """Until all have ended; fails naming those that live on."""
    wanted = list(processes)
    try:
        wait_until("all processes are gone", lambda: not any(map(alive, wanted)), timeout_s)
    except AssertionError:
        left = "\n".join(f"  {process}" for process in wanted if alive(process))
        raise AssertionError(f"processes left after {timeout_s:g} s:\n{left}") from None


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
