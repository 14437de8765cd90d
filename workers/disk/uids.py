"""User ids of local environments: one for each at a time, on this machine, whatever number of workers there is.

An id is taken by locking a file named after it, in a directory that only root can look into. The kernel frees the lock
when the worker dies; a file that is left means nothing, and the next worker removes it. (A name that everybody can take,
such as a socket's or a port's, would let functions take all ids away.)
"""

import fcntl
import os
import random
import stat
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path("/run/everwarm/uids")


class NoIdentity(Exception):
    """Every user id of the range is in use."""


class Identity:
    """A user id that nobody else has until it is closed."""

    __slots__ = ("_lock", "_path", "uid")

    def __init__(self, uid: int, path: Path, lock: int) -> None:
        self.uid = uid
        self._path = path
        self._lock = lock

    def close(self) -> None:
        """Give the id back, once; no process of this id may be left."""
        try:
            # Before the lock is gone: afterwards it may be somebody else's file.
            self._path.unlink(missing_ok=True)
        finally:
            os.close(self._lock)


def take_identity(uids: range, directory: Path = DIRECTORY) -> Identity:
    """Take any free id. Raises :class:`NoIdentity`, and ``OSError`` when the directory can't be had."""
    _make_private(directory)
    start = random.randrange(len(uids))  # noqa: S311 - spreads them, so that an id is not used again at once
    for offset in range(len(uids)):
        uid = uids[(start + offset) % len(uids)]
        path = directory / str(uid)
        lock = _lock(path)
        if lock is not None:
            return Identity(uid, path, lock)
    raise NoIdentity(f"all user ids from {uids.start} to {uids.stop - 1} are in use (EVERWARM_LOCAL_UIDS)")


def remove_leftovers(directory: Path = DIRECTORY) -> None:
    """Remove the files of killed workers; those that are locked are in use."""
    for path in directory.glob("*"):
        lock = _lock(path)
        if lock is not None:
            Identity(0, path, lock).close()


def _lock(path: Path) -> int | None:
    """The descriptor with the file's lock; ``None`` when another has the lock."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The lock of a file that its holder has just removed is worth nothing.
        exists = os.fstat(lock).st_nlink > 0
    except BlockingIOError:
        exists = False
    except BaseException:
        os.close(lock)
        raise
    if not exists:
        os.close(lock)
        return None
    return lock


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise PermissionError(f"{directory} must be a directory that only this user can look into")
