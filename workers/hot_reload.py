"""Hot reload: how often a directory that is code has been edited, as far as it concerns the environments on it.

The directory is asked when an environment is about to be leased, not watched in the background: so the invocation after
an edit is the one that gets a fresh process, however soon it comes. The kernel keeps the events meanwhile.
"""

import logging
import threading
from collections.abc import Iterator
from typing import Final

from watchfiles import Change, watch

#: How long one question may take, in ms; the kernel has queued the events of an edit before the editor returns.
_ASK_MS: Final = 5
#: What runtimes write themselves beside the code.
_IGNORED: Final = "__pycache__"

log = logging.getLogger(__name__)


class HotReload:
    """Counts the edits of every directory it was asked about."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._directories: dict[str, _Directory] = {}

    def edition(self, path: str) -> int:
        """A number that grows with edits; 0 for the empty path."""
        if not path:
            return 0
        with self._lock:
            directory = self._directories.setdefault(path, _Directory(path))
        return directory.edition()

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            for directory in self._directories.values():
                directory.close()


class _Directory:
    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._edition = 1
        self._changes: Iterator[set[tuple[Change, str]]] | None = None

    def edition(self) -> int:
        with self._lock:
            try:
                if self._ask():
                    self._edition += 1
                    log.info("code was edited", extra={"path": self._path})
            except (OSError, StopIteration) as error:
                # The directory is gone, or was replaced: whatever is there now is another edition.
                self._changes = None
                self._edition += 1
                log.info("code directory can't be watched", extra={"path": self._path, "error": str(error)})
            return self._edition

    def _ask(self) -> bool:
        if self._changes is None:
            self._changes = watch(
                self._path,
                watch_filter=_concerns_code,
                debounce=_ASK_MS,
                step=1,
                rust_timeout=_ASK_MS,
                yield_on_timeout=True,
                stop_event=self._stop,
                raise_interrupt=False,
            )
        return bool(next(self._changes))

    def close(self) -> None:
        self._stop.set()


def _concerns_code(_change: Change, path: str) -> bool:
    return _IGNORED not in path
