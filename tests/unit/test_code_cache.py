"""The worker's code cache: trees are shared, stay while they are used, and do not grow without end."""

import hashlib
import io
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.services.code import zip_of
from workers.disk.code_cache import CodeCache, CodeUnavailable, Tree


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


class Zips:
    """A server of zips, as the dispatcher is for workers."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._url = f"http://127.0.0.1:{port}"

    def add(self, source: str) -> tuple[str, str]:
        """SHA-256 and URL."""
        return self.add_zip(zip_of(index__py=source))

    def add_zip(self, data: bytes) -> tuple[str, str]:
        """As :meth:`add`."""
        sha256 = hashlib.sha256(data).hexdigest()
        (self._directory / sha256).write_bytes(data)
        return sha256, f"{self._url}/{sha256}"


@contextmanager
def serve(directory: Path) -> Iterator[Zips]:
    directory.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Zips(directory, server.server_port)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def zips(tmp_path: Path) -> Iterator[Zips]:
    """A running server."""
    with serve(tmp_path / "zips") as found:
        yield found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the trees are."""
    path = tmp_path / "code"
    path.mkdir()
    return path


def test_a_tree_is_shared_and_kept_for_the_next(zips: Zips, place: Path) -> None:
    cache = CodeCache(place, None)
    wanted = zips.add("a = 1")
    first, second = cache.use(*wanted), cache.use(*wanted)
    assert first is second
    assert (first.path / "index.py").read_text() == "a = 1"
    cache.release(first)
    cache.release(second)
    assert cache.use(*wanted) is first
    cache.release(first)
    cache.close()
    assert not list(place.iterdir())


def test_the_least_recently_used_trees_go(zips: Zips, place: Path) -> None:
    cache = CodeCache(place, None, unused=2)
    wanted = [zips.add(f"a = {number}") for number in range(5)]
    trees = [cache.use(*one) for one in wanted]
    for number in (0, 1, 2, 3):
        cache.release(trees[number])
    assert set(place.iterdir()) == {trees[number].path for number in (2, 3, 4)}
    cache.release(cache.use(*wanted[2]))
    cache.release(trees[4])
    assert set(place.iterdir()) == {trees[2].path, trees[4].path}
    again = cache.use(*wanted[0])
    assert (again.path / "index.py").read_text() == "a = 0"
    cache.release(again)
    cache.close()


def test_a_large_tree_is_not_kept_but_not_taken_away_either(zips: Zips, place: Path) -> None:
    cache = CodeCache(place, None, unused_bytes=1000)
    tree = cache.use(*zips.add("a = 1"))
    other = cache.use(*zips.add("a = 2"))
    cache.release(other)
    assert list(place.iterdir()) == [tree.path]
    cache.release(tree)
    assert not list(place.iterdir())


def test_a_tree_that_was_tidied_away_is_fetched_again(zips: Zips, place: Path) -> None:
    cache = CodeCache(place, None)
    wanted = zips.add("a = 1")
    old = cache.use(*wanted)
    (old.path / "index.py").unlink()
    old.path.rmdir()
    new = cache.use(*wanted)
    assert (new.path / "index.py").exists()
    cache.release(old)
    assert cache.use(*wanted) is new
    cache.release(new)
    cache.release(new)
    cache.close()


def test_what_fails_leaves_nothing(zips: Zips, place: Path) -> None:
    cache = CodeCache(place, None)
    sha256, url = zips.add("a = 1")
    for wrong_sha256, wrong_url in (("0" * 64, url), (sha256, url + "0"), (sha256, "http://127.0.0.1:1/")):
        with pytest.raises(CodeUnavailable):
            cache.use(wrong_sha256, wrong_url)
    assert not list(place.iterdir())
    assert not cache._fetching


def test_hot_reload_trees_are_nobodys(place: Path) -> None:
    cache = CodeCache(place, None)
    cache.release(Tree(place, None))
    assert place.is_dir()


def test_many_at_once_fetch_one_tree(zips: Zips, place: Path) -> None:
    cache = CodeCache(place, None)
    wanted = zips.add("a = 1")
    found: list[Tree] = []
    threads = [threading.Thread(target=lambda: found.append(cache.use(*wanted))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert found[0].users == 8
    assert len(list(place.iterdir())) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "small"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("needs root, which may mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.needs_root
@pytest.mark.parametrize("fetched", [False, True], ids=["fetching", "unpacking"])
def test_a_full_disk_is_told_and_leaves_nothing(zips: Zips, small_disk: Path, fetched: bool) -> None:
    cache = CodeCache(small_disk, None)
    # Random bytes stay as large when they are packed; zeros fit as a zip, and not as a file.
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("index.py", bytes(3_000_000) if fetched else os.urandom(1_500_000))
    large = zips.add_zip(packed.getvalue())
    with pytest.raises(CodeUnavailable, match="unpacked: .*No space left" if fetched else "No space left"):
        cache.use(*large)
    assert list(small_disk.iterdir()) == []
    tree = cache.use(*zips.add("handler = 1"))
    assert (tree.path / "index.py").read_text() == "handler = 1"
    cache.release(tree)
    cache.close()
