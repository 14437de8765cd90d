"""The code of functions on this machine: fetched from the dispatcher by its SHA-256, verified, unpacked once.

Each unpacked tree has a group id of its own, which only the environments of that code have, so that no other function
can read it (as root; otherwise all have the worker's).
"""

import hashlib
import logging
import os
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workers.contract.archive import ArchiveError, Limits, extract_zip
from workers.environments import StartError
from workers.identities import Identity, take

_FETCH_S: Final = 30.0
#: Unpacking was bounded when the zip was accepted; this machine may be slower, and must not fail for that.
_LIMITS: Final = Limits(unpacked_bytes=1 << 36, entries=1_000_000, time_s=300.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tree:
    """An unpacked zip, and the group that may read it (``None``: everybody's)."""

    path: Path
    gid: int | None


class CodeCache:
    """The trees below one directory, which lives and dies with the worker."""

    def __init__(self, directory: Path, uids: range | None) -> None:
        self._directory = directory
        self._uids = uids
        self._lock = threading.Lock()
        self._trees: dict[str, Tree] = {}
        self._fetching: dict[str, threading.Lock] = {}
        self._groups: list[Identity] = []

    def tree(self, sha256: str, url: str) -> Tree:
        """The tree of a zip. Different zips are fetched in parallel, one only once. Raises :class:`StartError`."""
        found = self._find(sha256)
        if found is not None:
            return found
        with self._lock:
            fetching = self._fetching.setdefault(sha256, threading.Lock())
        with fetching:
            found = self._find(sha256)
            if found is None:
                found = self._trees[sha256] = self._fetch(sha256, url)
        return found

    def _find(self, sha256: str) -> Tree | None:
        """The tree, unless something that tidies up temporary files has removed it."""
        found = self._trees.get(sha256)
        return found if found is not None and found.path.is_dir() else None

    def _fetch(self, sha256: str, url: str) -> Tree:
        with tempfile.TemporaryDirectory(dir=self._directory, prefix="fetch-") as scratch:
            archive = Path(scratch, "code.zip")
            _download(url, sha256, archive)
            unpacked = Path(scratch, "tree")
            try:
                extract_zip(archive, unpacked, _LIMITS)
            except (ArchiveError, OSError) as error:
                raise StartError(f"The function's code could not be unpacked: {error}") from error
            gid = self._protect(unpacked)
            target = self._directory / sha256
            unpacked.rename(target)
        return Tree(target, gid)

    def _protect(self, tree: Path) -> int | None:
        if self._uids is None:
            tree.chmod(0o755)
            return None
        group = take(self._uids)
        self._groups.append(group)
        os.chown(tree, 0, group.uid)
        tree.chmod(0o750)
        return group.uid

    def close(self) -> None:
        """Remove everything."""
        for tree in self._trees.values():
            shutil.rmtree(tree.path, ignore_errors=True)
        for group in self._groups:
            group.close()


def _download(url: str, sha256: str, target: Path) -> None:
    digest = hashlib.sha256()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_FETCH_S) as response, target.open("wb") as file:
            while chunk := response.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
    except (OSError, urllib.error.URLError, ValueError) as error:
        # The URL holds a signature: it stays out of the message.
        reason = getattr(error, "reason", error)
        raise StartError(f"The function's code could not be fetched from the dispatcher: {reason}") from error
    if digest.hexdigest() != sha256:
        raise StartError("The function's code arrived damaged: its SHA-256 is wrong.")
