"""Memory limits of local environments by the kernel's control groups, where this process may make some.

A group per environment, below one per worker that bears the name of its run directory. Both hierarchies are known:
version 1's memory controller, and version 2 where the controller is, or can be, handed down. Anywhere else the relay
samples and enforces the limit itself.
"""

import logging
import time
from pathlib import Path
from typing import Final

#: What a relay that is in its environment's group may take of the memory there.
RELAY_MB: Final = 16
_MOUNT: Final = Path("/sys/fs/cgroup")
_NOTE: Final = "memory-group"
_REMOVE_S: Final = 2.0
_TICK_S: Final = 0.01

log = logging.getLogger(__name__)


class MemoryGroups:
    """The groups of one worker; ``usable`` is false where there are none."""

    def __init__(self, run: Path) -> None:
        """``run`` is the worker's run directory, in which a note stays of where the groups are."""
        name = run.name
        self._limit_file = ""
        self._extra: dict[str, str] = {}
        self._parent = _parent()
        self._own = self._parent / name if self._parent is not None else None
        self.usable = self._own is not None and self._make(self._own)
        if self.usable:
            (run / _NOTE).write_text(str(self._own), encoding="utf-8")

    def _make(self, own: Path) -> bool:
        try:
            own.mkdir(exist_ok=True)
        except OSError as error:
            log.debug("no memory groups: %s", error)  # the tree is read-only in a container
            return False
        try:
            if (own / "memory.limit_in_bytes").exists():
                self._limit_file, self._extra = "memory.limit_in_bytes", {}
                return True
            (own / "cgroup.subtree_control").write_text("+memory")
        except OSError as error:
            log.debug("no memory groups: %s", error)
            _remove(own)
            return False
        self._limit_file, self._extra = "memory.max", {"memory.swap.max": "0", "memory.oom.group": "1"}
        return True

    def prepare(self, name: str, pid: int) -> Path | None:
        """A group that the process is put into, so that what it starts later is born there; the limit follows.

        ``None`` for version 2, where a process can be born in any group. In version 1 one can only be moved, for which
        the kernel takes some 10 ms, and holds up whatever forks meanwhile.
        """
        if not self.usable or self._own is None or self._extra:
            return None
        group = self._own / name
        try:
            group.mkdir()
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            log.debug("no memory group in advance: %s", error)
            self.remove(name)
            return None
        return group

    def limit(self, group: Path, limit_mb: int) -> bool:
        """Set the limit of a group from :meth:`prepare`; false when that fails."""
        try:
            (group / self._limit_file).write_text(str(limit_mb + RELAY_MB << 20))
        except OSError as error:
            log.warning("no memory limit for an environment: %s", error)
            return False
        return True

    def create(self, name: str, limit_mb: int) -> Path | None:
        """A group with the limit; ``None`` when there are no groups here."""
        if not self.usable or self._own is None:
            return None
        group = self._own / name
        try:
            group.mkdir()
            (group / self._limit_file).write_text(str(limit_mb << 20))
            for file, value in self._extra.items():
                if (group / file).exists():
                    (group / file).write_text(value)
        except OSError as error:
            log.warning("no memory group for an environment: %s", error)
            return None
        return group

    def remove(self, name: str) -> None:
        """Remove an environment's group; its processes are gone or going."""
        if self._own is not None and self.usable:
            _remove(self._own / name)

    def close(self) -> None:
        """Remove the worker's group."""
        if self._own is not None and self.usable:
            _remove_tree(self._own)


def remove_leftovers(run: Path) -> None:
    """Remove the groups of a dead worker, which may have been started in another group than this one."""
    try:
        own = Path((run / _NOTE).read_text(encoding="utf-8"))
    except OSError:
        return  # It had none.
    if own.is_relative_to(_MOUNT) and own.name == run.name:
        _remove_tree(own)


def _parent() -> Path | None:
    """The group that this process is in, where groups with a memory limit can be made."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _inside(_MOUNT / "memory", path)
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers and (_MOUNT / "cgroup.controllers").exists():
            return _inside(_MOUNT, path)
    return None


def _inside(mount: Path, path: str) -> Path | None:
    """In a container the path is the host's, and the mount begins at the container's own group."""
    for candidate in (mount / path.lstrip("/"), mount):
        if (candidate / "cgroup.procs").exists():
            return candidate
    return None


def _remove_tree(own: Path) -> None:
    if own.is_dir():
        for group in own.iterdir():
            if group.is_dir():
                _remove(group)
        _remove(own)


def _remove(group: Path) -> None:
    """A group can be removed once the kernel has let go of its last process."""
    deadline = time.monotonic() + _REMOVE_S
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                log.warning("a memory group stays: %s", error)
                return
            time.sleep(_TICK_S)
        else:
            return
