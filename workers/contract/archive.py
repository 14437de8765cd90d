"""Zips of functions: what may be in one, and how it is unpacked. Both sides use this: the dispatcher before it accepts
an upload, a worker before it runs the code, so neither has to trust the other's look.

A zip is refused when it is no zip (:class:`NotAnArchive`), when it would unpack to more than the limits
(:class:`ArchiveTooLarge`), when an entry would reach out of the tree or is no file, directory or inner link
(:class:`UnsafeArchive`), or when looking takes too long (:class:`ArchiveTooSlow`). The sizes are checked twice: as the
headers claim them, and as the data really inflates.

Links are allowed inside the tree. A target may climb only at its start (``../../x``): the directories above a link are
real ones, so that much can be followed on paper, and what comes after only descends, through links that were checked alike.
"""

import os
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

_CHUNK: Final = 1 << 18
_MAX_LINK_BYTES: Final = 4096
_MAX_NAME_BYTES: Final = 4096
_ENCRYPTED: Final = 0x1
_ZIP64_END: Final = b"PK\x06\x06"
#: Length of zip64's own end record and its locator, which stand before the plain end record.
_ZIP64_END_BYTES: Final = 56 + 20
_UNIX: Final = 3
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
#: What ``zipfile`` raises for data that is damaged or that it cannot read; gathered here so that callers see one tree.
_DAMAGED: Final = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, IndexError, OverflowError,
    NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip


class ArchiveError(Exception):
    """The zip is refused; the text says why, and names the entry."""


class NotAnArchive(ArchiveError):
    """The bytes are no zip, or a damaged one."""


class ArchiveTooLarge(ArchiveError):
    """The zip holds more bytes or entries than the limits allow."""


class UnsafeArchive(ArchiveError):
    """An entry is encrypted, ambiguous, not a plain file, or reaches out of the tree."""


class ArchiveTooSlow(ArchiveError):
    """Unpacking took longer than the limits allow."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one zip may hold. The defaults are AWS's, but for the number of entries, which AWS does not publish."""

    unpacked_bytes: int = 262_144_000
    entries: int = 100_000
    time_s: float = 25.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What a checked zip holds."""

    entries: int
    unpacked_bytes: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """One member of a zip whose name and kind were checked."""

    info: zipfile.ZipInfo
    path: tuple[str, ...]
    kind: int
    """``stat.S_IFREG``, ``S_IFDIR`` or ``S_IFLNK``."""


class _Budget:
    """Counts what has been inflated, and the time it took, against the limits."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._end = clock() + limits.time_s
        self.inflated = 0

    def check_time(self) -> None:
        if self._clock() > self._end:
            raise ArchiveTooSlow(f"unpacking took longer than {self._limits.time_s:g} seconds")

    def spend(self, size: int) -> None:
        self.inflated += size
        if self.inflated > self._limits.unpacked_bytes:
            raise ArchiveTooLarge(_unpacked_too_large(self._limits))
        self.check_time()


def _unpacked_too_large(limits: Limits) -> str:
    return f"Unzipped size must be smaller than {limits.unpacked_bytes} bytes"


def check_zip(
    source: Path | IO[bytes], limits: Limits | None = None, *, clock: Callable[[], float] = time.monotonic
) -> Summary:
    """Read a whole zip as if it were unpacked, and write nothing. Raises a subclass of :class:`ArchiveError`."""
    limits = limits or Limits()
    budget = _Budget(limits, clock)
    try:
        _check_directory(source, limits)
        with zipfile.ZipFile(source) as archive:
            entries = _entries(archive, limits, budget)
            for entry in entries:
                for _ in _content(archive, entry, budget):
                    pass
    except _DAMAGED as error:
        raise NotAnArchive(str(error)) from error
    return Summary(entries=len(entries), unpacked_bytes=budget.inflated)


def extract_zip(
    source: Path, target: Path, limits: Limits | None = None, *, clock: Callable[[], float] = time.monotonic
) -> Summary:
    """Unpack ``source`` into ``target``, a directory that is new or empty and that nobody else writes to.

    Files get mode 0644, or 0755 when the zip marks them executable, directories 0755, so that every uid can read them
    and only the owner can change them. After an error ``target`` is left half filled, for the caller to remove.

    Raises a subclass of :class:`ArchiveError`, ``FileExistsError`` when ``target`` is not empty, or another ``OSError``
    when the disk fails.
    """
    limits = limits or Limits()
    budget = _Budget(limits, clock)
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty")
    try:
        _check_directory(source, limits)
        with zipfile.ZipFile(source) as archive:
            entries = _entries(archive, limits, budget)
            _write_all(archive, entries, target, budget)
    except _DAMAGED as error:
        raise NotAnArchive(str(error)) from error
    target.chmod(0o755)
    return Summary(entries=len(entries), unpacked_bytes=budget.inflated)


def _write_all(archive: zipfile.ZipFile, entries: list[_Entry], target: Path, budget: _Budget) -> None:
    made = {target}
    for entry in entries:
        path = target.joinpath(*entry.path)
        _make_directories(path if entry.kind == stat.S_IFDIR else path.parent, made)
        if entry.kind == stat.S_IFREG:
            _write_file(archive, entry, path, budget)
    # Links come last, so that no file is ever written through one.
    for entry in entries:
        if entry.kind == stat.S_IFLNK:
            path = target.joinpath(*entry.path)
            os.symlink(b"".join(_content(archive, entry, budget)), os.fsencode(path))


def _make_directories(path: Path, made: set[Path]) -> None:
    missing = []
    while path not in made:
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
        made.add(directory)


def _write_file(archive: zipfile.ZipFile, entry: _Entry, path: Path, budget: _Budget) -> None:
    executable = _unix_mode(entry.info) & 0o111
    mode = 0o755 if executable else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in _content(archive, entry, budget):
            file.write(chunk)
        os.fchmod(file.fileno(), mode)


def _content(archive: zipfile.ZipFile, entry: _Entry, budget: _Budget) -> Iterator[bytes]:
    """The inflated bytes of one entry, counted; a link's target is checked before it is handed out."""
    budget.check_time()
    if entry.kind == stat.S_IFDIR:
        return
    with archive.open(entry.info) as data:
        if entry.kind == stat.S_IFLNK:
            target = data.read(_MAX_LINK_BYTES + 1)
            budget.spend(len(target))
            _check_link(entry, target)
            yield target
            return
        while chunk := data.read(_CHUNK):
            budget.spend(len(chunk))
            yield chunk


def _check_directory(source: Path | IO[bytes], limits: Limits) -> None:
    """Count the entries before ``zipfile`` makes an object of 600 bytes of each; a zip of 50 MB has room for a million."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            _check_directory(file, limits)
        return
    # Private, and there since Python 2.6: finds the directory, zip64 and trailing comments included.
    end = zipfile._EndRecData(source)  # type: ignore[attr-defined]
    if end is None:
        raise NotAnArchive("there is no directory of entries")
    size, position = end[5], end[9] - end[5]
    source.seek(max(position - (_ZIP64_END_BYTES if end[0] == _ZIP64_END else 0), 0))
    count = source.read(size).count(b"PK\x01\x02")
    source.seek(0)
    if count > limits.entries:
        raise ArchiveTooLarge(f"the zip holds {count} entries; at most {limits.entries} are allowed")


def _entries(archive: zipfile.ZipFile, limits: Limits, budget: _Budget) -> list[_Entry]:
    """The members in the order of the zip, after every check that the headers alone allow."""
    members = archive.infolist()
    if len(members) > limits.entries:
        raise ArchiveTooLarge(f"the zip holds {len(members)} entries; at most {limits.entries} are allowed")
    if sum(member.file_size for member in members) > limits.unpacked_bytes:
        raise ArchiveTooLarge(_unpacked_too_large(limits))
    entries = []
    kinds: dict[tuple[str, ...], int] = {}
    for member in members:
        budget.check_time()
        entry = _entry(member)
        if not entry.path:
            continue  # "./" names the tree itself
        if entry.path in kinds and (kinds[entry.path], entry.kind) != (stat.S_IFDIR, stat.S_IFDIR):
            raise UnsafeArchive(f"the zip holds the name {_shown(member)} twice")
        kinds[entry.path] = entry.kind
        entries.append(entry)
    for entry in entries:
        _check_parents(entry, kinds)
    return entries


def _check_parents(entry: _Entry, kinds: dict[tuple[str, ...], int]) -> None:
    for depth in range(1, len(entry.path)):
        if kinds.get(entry.path[:depth], stat.S_IFDIR) != stat.S_IFDIR:
            raise UnsafeArchive(f"{_shown(entry.info)} lies below an entry that is no directory")


def _entry(member: zipfile.ZipInfo) -> _Entry:
    if member.flag_bits & _ENCRYPTED:
        raise UnsafeArchive(f"{_shown(member)} is encrypted")
    if member.compress_type not in _METHODS:
        raise NotAnArchive(f"{_shown(member)} is compressed in a way other than deflate")
    return _Entry(info=member, path=_path(member), kind=_kind(member))


def _path(member: zipfile.ZipInfo) -> tuple[str, ...]:
    # ``filename`` is already cut at a NUL byte; ``orig_filename`` still shows it.
    name = member.orig_filename
    if "\0" in name or "\\" in name:
        raise UnsafeArchive(f"{_shown(member)} has a NUL byte or a backslash in its name")
    if name.startswith("/"):
        raise UnsafeArchive(f"{_shown(member)} is an absolute path")
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        raise UnsafeArchive("the zip holds a name that is too long")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise UnsafeArchive(f"{_shown(member)} reaches out of the tree")
    if any(len(os.fsencode(part)) > 255 for part in parts):
        raise UnsafeArchive("the zip holds a name that is too long")
    return parts


def _kind(member: zipfile.ZipInfo) -> int:
    kind = stat.S_IFMT(_unix_mode(member))
    if kind == stat.S_IFLNK:
        return stat.S_IFLNK
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnsafeArchive(f"{_shown(member)} is neither a file, a directory nor a link")
    return stat.S_IFDIR if member.filename.endswith("/") or kind == stat.S_IFDIR else stat.S_IFREG


def _unix_mode(member: zipfile.ZipInfo) -> int:
    """The mode that a Unix tool stored; 0 from other systems, whose zips have none."""
    return member.external_attr >> 16 if member.create_system == _UNIX else 0


def _check_link(entry: _Entry, target: bytes) -> None:
    shown = _shown(entry.info)
    if not target or len(target) > _MAX_LINK_BYTES or b"\0" in target:
        raise UnsafeArchive(f"the link {shown} has no usable target")
    if target.startswith(b"/"):
        raise UnsafeArchive(f"the link {shown} points to an absolute path")
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    climbs = 0
    while climbs < len(parts) and parts[climbs] == b"..":
        climbs += 1
    if climbs > len(entry.path) - 1 or b".." in parts[climbs:]:
        raise UnsafeArchive(f"the link {shown} points out of the tree")


def _shown(member: zipfile.ZipInfo) -> str:
    """A member's name for a message: printable and short."""
    return ascii(member.orig_filename[:200])
