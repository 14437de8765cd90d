"""Zips: what is refused, and how the rest is unpacked."""

import contextlib
import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.contract.archive import (
    ArchiveError,
    ArchiveTooLarge,
    ArchiveTooSlow,
    Limits,
    NotAnArchive,
    UnsafeArchive,
    check_zip,
    extract_zip,
)

LINK = stat.S_IFLNK | 0o777
Entry = tuple[str, bytes, int]


def make(*entries: Entry) -> bytes:
    """Name, content and Unix mode (0: none) of each entry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


def extract(data: bytes, target: Path, limits: Limits | None = None) -> Path:
    source = target.with_suffix(".zip")
    source.write_bytes(data)
    extract_zip(source, target, limits)
    return target


def patched(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """``data`` with some bytes of the first header with that signature changed."""
    at = data.index(signature) + offset
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_files_directories_links_and_modes(tmp_path: Path) -> None:
    data = make(
        ("./a/b/handler.py", b"code", 0o100600),
        ("bin/run", b"#!/bin/sh", 0o104711),
        ("open", b"x", 0o100666),
        ("dos.txt", b"y", 0),
        ("empty/", b"", stat.S_IFDIR | 0o777),
        ("empty/", b"", stat.S_IFDIR | 0o777),
        ("a/link", b"../bin/run", LINK),
        ("here", b"a", LINK),
        ("through", b"here/b/handler.py", LINK),
    )
    before = os.umask(0o077)
    try:
        target = extract(data, tmp_path / "t")
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(target)): stat.S_IMODE(path.lstat().st_mode)
        for path in target.rglob("*")
        if not path.is_symlink()
    }
    assert modes == {
        "a": 0o755, "a/b": 0o755, "a/b/handler.py": 0o644, "bin": 0o755, "bin/run": 0o755, "open": 0o644,
        "dos.txt": 0o644, "empty": 0o755,
    }  # fmt: skip
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert (target / "a/link").read_bytes() == b"#!/bin/sh"
    assert (target / "through").read_bytes() == b"code"
    summary = check_zip(io.BytesIO(data))
    assert summary.unpacked_bytes == 4 + 9 + 1 + 1 + len("../bin/run") + 1 + len("here/b/handler.py")


UNSAFE: dict[str, bytes] = {
    "climbs": make(("../x", b"", 0)),
    "climbs inside": make(("a/../../x", b"", 0)),
    "absolute": make(("/etc/x", b"", 0)),
    "backslash": make(("a\\b", b"", 0)),
    "NUL": make(("aXb", b"", 0)).replace(b"aXb", b"a\0b"),
    "long name": make(("a" * 256, b"", 0)),
    "twice": make(("a", b"1", 0), ("./a", b"2", 0)),
    "file and directory": make(("a", b"1", 0), ("a/", b"", 0)),
    "below a file": make(("a", b"1", 0), ("a/b", b"2", 0)),
    "below a link": make(("a", b".", LINK), ("a/b", b"2", 0)),
    "link up": make(("a", b"..", LINK)),
    "link up from below": make(("d/a", b"../../x", LINK)),
    "link absolute": make(("a", b"/etc/passwd", LINK)),
    "link that turns": make(("a", b"d/../../x", LINK), ("d/x", b"", 0)),
    "link empty": make(("a", b"", LINK)),
    "link long": make(("a", b"x" * 4097, LINK)),
    "link with NUL": make(("a", b"x\0y", LINK)),
    "device": make(("a", b"", stat.S_IFCHR | 0o666)),
    "fifo": make(("a", b"", stat.S_IFIFO | 0o666)),
    "socket": make(("a", b"", stat.S_IFSOCK | 0o666)),
    "encrypted": patched(make(("a", b"x", 0)), b"PK\1\2", 8, b"\1\0"),
}


@pytest.mark.parametrize("data", UNSAFE.values(), ids=UNSAFE.keys())
def test_an_unsafe_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UnsafeArchive):
        check_zip(io.BytesIO(data))
    (tmp_path / "deep").mkdir()
    with pytest.raises(UnsafeArchive):
        extract(data, tmp_path / "deep" / "er")
    assert {path.name for path in (tmp_path / "deep").iterdir()} <= {"er", "er.zip"}
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


GOOD = make(("handler.py", b"code " * 100, 0), ("data", os.urandom(500), 0))
DAMAGED: dict[str, bytes] = {
    "text": b"no zip at all",
    "nothing": b"",
    "cut": GOOD[: len(GOOD) // 2],
    "wrong checksum": patched(GOOD, b"PK\1\2", 16, b"\0\0\0\0"),
    "damaged data": GOOD[:42] + b"\xff" * 8 + GOOD[50:],
    "claims less": patched(GOOD, b"PK\1\2", 24, struct.pack("<L", 50)),
    "other method": patched(patched(GOOD, b"PK\1\2", 10, b"\x0e\0"), b"PK\3\4", 8, b"\x0e\0"),
    "offset outside": patched(GOOD, b"PK\1\2", 42, struct.pack("<L", 0x7FFFFFFF)),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(NotAnArchive):
        check_zip(io.BytesIO(data))
    source = tmp_path / "x.zip"
    source.write_bytes(data)
    with pytest.raises(NotAnArchive):
        check_zip(source)


def test_a_header_that_claims_too_much_is_counted_by_what_is_there() -> None:
    claims = patched(GOOD, b"PK\1\2", 24, struct.pack("<L", 5000))
    assert check_zip(io.BytesIO(claims)).unpacked_bytes == 1000


def test_a_bomb_is_refused_by_its_unpacked_size(tmp_path: Path) -> None:
    bomb = make(("a", b"\0" * 1_000_000, 0))
    assert len(bomb) < 2000
    for check in (
        lambda limits: check_zip(io.BytesIO(bomb), limits),
        lambda limits: extract(bomb, tmp_path / "t", limits),
    ):
        with pytest.raises(ArchiveTooLarge, match="Unzipped size must be smaller than 999999 bytes"):
            check(Limits(unpacked_bytes=999_999))
    liar = patched(bomb, b"PK\1\2", 24, struct.pack("<L", 10))
    with pytest.raises(ArchiveError):
        extract(liar, tmp_path / "liar", Limits(unpacked_bytes=1000))
    assert sum(path.stat().st_size for path in (tmp_path / "liar").rglob("*")) <= 1000
    with pytest.raises(ArchiveTooLarge, match="at most 3 are allowed"):
        check_zip(io.BytesIO(make(*((str(n), b"", 0) for n in range(4)))), Limits(entries=3))


def test_entries_are_counted_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise AssertionError("the directory was read")

    data = make(*((str(n), b"", 0) for n in range(5)))
    source = tmp_path / "with-comment.zip"
    source.write_bytes(data)
    with zipfile.ZipFile(source, "a") as archive:
        archive.comment = b"c" * 1000
    assert check_zip(source, Limits(entries=5)).entries == 5
    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", fail)
    with pytest.raises(ArchiveTooLarge):
        check_zip(source, Limits(entries=4))


def ticking() -> Callable[[], float]:
    ticks: Iterator[int] = iter(range(1_000_000))
    return lambda: float(next(ticks))


def test_the_time_to_check_an_archive_is_bounded() -> None:
    with pytest.raises(ArchiveTooSlow, match="longer than 5 seconds"):
        check_zip(io.BytesIO(make(*((str(n), b"x", 0) for n in range(20)))), Limits(time_s=5), clock=ticking())


def test_the_target_must_be_empty(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x").touch()
    with pytest.raises(FileExistsError):
        extract(GOOD, tmp_path / "t")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_never_surprise(data: st.DataObject) -> None:
    """Whatever a damaged zip makes ``zipfile`` raise, callers see one family of errors."""
    changed = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(GOOD) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ArchiveError):
        check_zip(io.BytesIO(bytes(changed)), Limits(unpacked_bytes=100_000))
