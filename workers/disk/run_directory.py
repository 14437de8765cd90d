"""A worker's directory for everything that lives and dies with it; those of dead workers are removed at start.

A run directory is locked while its worker lives. The lock is taken before the directory gets the name that others look
for, so that none of them can take a worker that is just starting for a dead one.
"""

import contextlib
import fcntl
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from workers.disk.removal import remove

PREFIX: Final = "everwarm-worker-"
_NEW_PREFIX: Final = "everwarm-new-"
_LOCK: Final = "lock"
#: Younger directories are left alone: by this age a worker has long locked and renamed what it made.
_NEW_S: Final = 600.0

log = logging.getLogger(__name__)


def place(data: Path) -> Path:
    """Where run directories are: root's on disk and passable for every user, which the data directory need not be."""
    return Path("/var/tmp") if os.geteuid() == 0 else data / "run"  # noqa: S108 - mkdtemp makes the name, mode 0711


class RunDirectory:
    """``path`` is the directory, which every user may pass and only this one may read."""

    def __init__(self, place: Path, remove_leftovers: Callable[[Path], None]) -> None:
        """``remove_leftovers`` is told each dead worker's directory before that is removed.

        Raises ``OSError`` when nothing can be made below ``place``.
        """
        place.mkdir(parents=True, exist_ok=True)
        _remove_dead(place, remove_leftovers)
        made = Path(tempfile.mkdtemp(prefix=_NEW_PREFIX, dir=place))
        self._lock = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        made.chmod(0o711)
        self.path = made.rename(place / (PREFIX + made.name.removeprefix(_NEW_PREFIX)))

    def close(self) -> None:
        """Remove the directory."""
        remove(self.path)
        os.close(self._lock)


def _remove_dead(place: Path, remove_leftovers: Callable[[Path], None]) -> None:
    for old in [*place.glob(f"{PREFIX}*"), *place.glob(f"{_NEW_PREFIX}*")]:
        try:
            with _dead(old) as dead:
                if dead:
                    remove_leftovers(old)
                    remove(old)
        except FileNotFoundError:
            continue  # another worker was faster
        except OSError as error:
            log.warning("what a dead worker left stays", extra={"path": str(old), "error": str(error)})


@contextlib.contextmanager
def _dead(path: Path) -> Iterator[bool]:
    """Whether the directory is one of ours whose worker is dead; then it is locked meanwhile."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        yield False
    elif path.name.startswith(_NEW_PREFIX):
        yield time.time() - status.st_mtime > _NEW_S
    else:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        try:
            yield _locked(lock)
        finally:
            os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
