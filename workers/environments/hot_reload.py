"""Hot reload: how often a directory that is code has been edited, as far as that concerns the environments on it.

The directory is asked when an environment is about to be leased, not watched in the background: so the invocation after
an edit is the one that gets a fresh process, however soon it comes. The kernel keeps the events meanwhile, in their order:
a mark that is made with the question, in a place that is watched together with the code, comes after every edit before it.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from watchfiles import Change, watch

_ASK_MS: Final = 5
#: How long a machine is waited for that does not show the mark.
_MARK_S: Final = 2.0
#: What runtimes write themselves beside the code.
_IGNORED: Final = "__pycache__"

log = logging.getLogger(__name__)


class HotReload:
    """Counts the edits of every directory that it was asked about."""

    def __init__(self, place: Path) -> None:
        """``place`` is a directory of the worker's own, for the marks."""
        self._place = place
        self._lock = threading.Lock()
        self._directories: dict[str, _Directory] = {}

    def code_version(self, path: str) -> int:
        """The version of the code in a directory: a number that grows with edits; 0 for the empty path."""
        if not path:
            return 0
        with self._lock:
            directory = self._directories.get(path)
            if directory is None:
                marks = Path(tempfile.mkdtemp(prefix="edits-", dir=self._place))
                directory = self._directories[path] = _Directory(path, marks)
        return directory.code_version()

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            for directory in self._directories.values():
                directory.close()


def identity(path: str) -> int:
    """Tells which directory has this path: 0 for the empty path, and for one that is not on this machine.

    For processes that read the code anew each time, from a mount that stays on the directory that was there at first.
    """
    try:
        return Path(path).stat().st_ino if path else 0
    except OSError:
        return 0


class _Directory:
    def __init__(self, path: str, marks: Path) -> None:
        self._path = path
        self._marks = marks
        self._number = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._code_version = 1
        self._changes: Iterator[set[tuple[Change, str]]] | None = None

    def code_version(self) -> int:
        with self._lock:
            try:
                if self._ask():
                    self._code_version += 1
                    log.info("code was edited", extra={"path": self._path})
            except (OSError, StopIteration) as error:
                # The directory is gone, or was replaced: whatever is there now counts as another version.
                self._changes = None
                self._code_version += 1
                log.info("code directory can't be watched", extra={"path": self._path, "error": str(error)})
            return self._code_version

    def _ask(self) -> bool:
        if self._changes is None:
            self._changes = watch(
                self._path,
                self._marks,
                watch_filter=_concerns_code,
                debounce=_ASK_MS,
                step=1,
                rust_timeout=_ASK_MS,
                yield_on_timeout=True,
                stop_event=self._stop,
                raise_interrupt=False,
            )
            next(self._changes)  # from here on it watches
        self._number += 1
        mark = self._marks / str(self._number)
        mark.touch()
        try:
            return self._edited_before(str(mark), self._changes)
        finally:
            mark.unlink()

    def _edited_before(self, mark: str, changes: Iterator[set[tuple[Change, str]]]) -> bool:
        edited = False
        deadline = time.monotonic() + _MARK_S
        while time.monotonic() < deadline:
            paths = {path for _, path in next(changes)}
            edited = edited or any(not path.startswith(str(self._marks)) for path in paths)
            if mark in paths:
                break
        return edited

    def close(self) -> None:
        self._stop.set()


def _concerns_code(_change: Change, path: str) -> bool:
    return _IGNORED not in path
