"""The code of functions on this machine: fetched from the dispatcher by its SHA-256, verified, unpacked once.

Each unpacked tree has a group id of its own, which only the environments of that code have, so that no other function
can read it (as root; otherwise all have the worker's).
"""

import hashlib
import http.client
import itertools
import os
import tempfile
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workers.contract.archive import ArchiveError, Limits, extract_zip
from workers.disk.removal import remove
from workers.disk.uids import Identity, take_identity

_FETCH_S: Final = 30.0
#: Unpacking was bounded when the zip was accepted; this machine may be slower, and must not fail for that.
_LIMITS: Final = Limits(unpacked_bytes=1 << 36, entries=1_000_000, time_s=300.0)
#: What trees that nobody uses may take: each update of a function leaves one.
_UNUSED_TREES: Final = 64
_UNUSED_BYTES: Final = 1 << 30
#: What a file takes beside its contents.
_ENTRY_BYTES: Final = 4096


class CodeUnavailable(Exception):
    """A function's code could not be fetched or unpacked. The text is for the caller."""


@dataclass(slots=True, eq=False)
class Tree:
    """An unpacked zip, and the group that may read it (``None``: everybody's). Without ``sha256`` no cache has it."""

    path: Path
    gid: int | None
    sha256: str = ""
    group: Identity | None = None
    size: int = 0
    """Bytes on disk, roughly."""
    users: int = 0


class CodeCache:
    """The trees below one directory, which lives and dies with the worker.

    Those that nobody uses are kept for whoever comes next, the most recently used ones, within a budget.
    """

    def __init__(
        self, directory: Path, uids: range | None, *, unused: int = _UNUSED_TREES, unused_bytes: int = _UNUSED_BYTES
    ) -> None:
        self._directory = directory
        self._uids = uids
        self._unused = unused
        self._unused_bytes = unused_bytes
        self._lock = threading.Lock()
        self._trees: dict[str, Tree] = {}
        """Trees by SHA-256; those that nobody uses in the order in which they were used last."""
        self._fetching: dict[str, threading.Lock] = {}
        self._numbers = itertools.count()

    def use(self, sha256: str, url: str) -> Tree:
        """The tree of a zip, which stays until :meth:`release`. Different zips are fetched in parallel, one only once.

        Raises :class:`CodeUnavailable`; as root ``NoIdentity`` and ``OSError`` as well.
        """
        with self._lock:
            found = self._find(sha256)
            if found is not None:
                return found
            fetching = self._fetching.setdefault(sha256, threading.Lock())
        try:
            with fetching:
                return self._find_or_fetch(sha256, url)
        finally:
            with self._lock:
                self._fetching.pop(sha256, None)

    def _find_or_fetch(self, sha256: str, url: str) -> Tree:
        with self._lock:
            found = self._find(sha256)
        if found is not None:
            return found
        fetched = self._fetch(sha256, url)
        with self._lock:
            # Somebody who came when another's attempt had just failed may have been as quick.
            found = self._find(sha256)
            if found is None:
                fetched.users = 1
                self._trees[sha256] = fetched
                return fetched
        _drop(fetched)
        return found

    def _find(self, sha256: str) -> Tree | None:
        """The tree, with one more user, unless something that tidies up has removed it; the caller has the lock."""
        found = self._trees.get(sha256)
        if found is None:
            return None
        if not found.path.is_dir():
            del self._trees[sha256]
            if not found.users:
                _drop(found)
            return None
        found.users += 1
        return found

    def release(self, tree: Tree) -> None:
        """One user of the tree is gone, with every process that could read it; may remove trees, which takes its time."""
        if not tree.sha256:
            return
        with self._lock:
            tree.users -= 1
            if tree.users:
                return
            if self._trees.get(tree.sha256) is tree:
                self._trees[tree.sha256] = self._trees.pop(tree.sha256)
                going = self._surplus()
            else:
                going = [tree]
        for unused in going:
            _drop(unused)

    def _surplus(self) -> list[Tree]:
        """Take the oldest trees out of the cache that are over its budget; the caller has the lock."""
        unused = [tree for tree in self._trees.values() if not tree.users]
        size = sum(tree.size for tree in unused)
        going = []
        while len(unused) > self._unused or size > self._unused_bytes:
            oldest = unused.pop(0)
            size -= oldest.size
            del self._trees[oldest.sha256]
            going.append(oldest)
        return going

    def _fetch(self, sha256: str, url: str) -> Tree:
        scratch = Path(tempfile.mkdtemp(dir=self._directory, prefix="fetch-"))
        try:
            archive = scratch / "code.zip"
            _download(url, sha256, archive)
            unpacked = scratch / "tree"
            try:
                summary = extract_zip(archive, unpacked, _LIMITS)
            except (ArchiveError, OSError) as error:
                raise CodeUnavailable(f"The function's code could not be unpacked: {error}") from error
            group = self._protect(unpacked)
            # Another tree of the same zip may be on its way out.
            target = self._directory / f"{sha256}-{next(self._numbers)}"
            unpacked.rename(target)
        finally:
            remove(scratch)
        size = summary.unpacked_bytes + summary.entries * _ENTRY_BYTES
        return Tree(target, group.uid if group else None, sha256, group, size)

    def _protect(self, tree: Path) -> Identity | None:
        if self._uids is None:
            tree.chmod(0o755)
            return None
        group = take_identity(self._uids)
        try:
            os.chown(tree, 0, group.uid)
            tree.chmod(0o750)
        except BaseException:
            group.close()
            raise
        return group

    def close(self) -> None:
        """Remove all trees; nobody uses one any more."""
        with self._lock:
            trees = list(self._trees.values())
            self._trees.clear()
        for tree in trees:
            _drop(tree)


def _drop(tree: Tree) -> None:
    """Remove a tree that nobody uses, and that the cache has no more."""
    try:
        remove(tree.path)
    finally:
        if tree.group is not None:
            tree.group.close()


def _download(url: str, sha256: str, target: Path) -> None:
    digest = hashlib.sha256()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_FETCH_S) as response, target.open("wb") as file:
            while chunk := response.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # The URL holds a signature: it stays out of the message.
        reason = getattr(error, "reason", error)
        raise CodeUnavailable(f"The function's code could not be fetched from the dispatcher: {reason}") from error
    if digest.hexdigest() != sha256:
        raise CodeUnavailable("The function's code arrived damaged: its SHA-256 is wrong.")
