"""Removing directories that functions have filled: whatever their depth, names and modes, it never fails.

``shutil.rmtree`` calls itself for each level on Python 3.11 and 3.12, and a function may nest deeper than that goes.
Here every directory found is moved up to the top one before it is emptied: no recursion, no long paths, and never more
than two directories open.
"""

import contextlib
import itertools
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

log = logging.getLogger(__name__)


def remove(path: Path) -> None:
    """Remove a directory and all in it. Links are not followed, mounts stay; what can't be removed is logged.

    No process may be left that changes it. Harmless where there is nothing, and when another does the same.
    """
    try:
        with _opened(str(path), None) as top:
            _empty(top)
        path.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("a directory stays", extra={"path": str(path), "error": str(error)})


def _empty(top: int) -> None:
    device = os.fstat(top).st_dev
    names = (f"{secrets.token_hex(8)}-{number}" for number in itertools.count())

    def clear(entry: "os.DirEntry[str]") -> None:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=top)
            return
        with _opened(entry.name, top) as directory:
            if os.fstat(directory).st_dev == device:
                _each(directory, lambda inner: _move_up(inner, directory, top, names))
        os.rmdir(entry.name, dir_fd=top)

    _each(top, clear)


def _move_up(entry: "os.DirEntry[str]", directory: int, top: int, names: Iterator[str]) -> None:
    """Move a directory up to the top one; remove anything else."""
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(entry.name, dir_fd=directory)
        return
    _make_ours(entry.name, directory)
    os.rename(entry.name, next(names), src_dir_fd=directory, dst_dir_fd=top)


def _each(directory: int, work: Callable[["os.DirEntry[str]"], None]) -> None:
    """Call ``work`` with every entry; again and again, since there may be new ones, until it works for none."""
    progress = True
    while progress:
        progress = False
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    work(entry)
                    progress = True
                except FileNotFoundError:
                    continue
                except OSError as error:
                    log.debug("can't be removed: %s", error)


def _make_ours(name: str, parent: int | None) -> None:
    """Give the rights on a directory back, which a function may have taken away."""
    with contextlib.suppress(OSError):
        if stat.S_IMODE(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode) & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(name, stat.S_IRWXU, dir_fd=parent)


@contextlib.contextmanager
def _opened(name: str, parent: int | None) -> Iterator[int]:
    _make_ours(name, parent)
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
