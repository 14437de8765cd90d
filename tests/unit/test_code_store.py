"""The store of zips: content addressing, signed URLs, what is removed."""

import asyncio
import hashlib
import os
import stat
from pathlib import Path

import pytest

from dispatcher.code.store import CODE_PATH, GRACE_S, CodeCollector, CodeStore
from dispatcher.wire.errors import AwsError
from tests.services.api import CODE, zip_of
from workers.contract.archive import Limits

NOW = 1_800_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> CodeStore:
    return CodeStore(tmp_path / "code", b"secret", Limits(), 10_000, clock)


def files(store: CodeStore) -> list[Path]:
    return [path for path in store._directory.rglob("*") if path.is_file()]


def test_storing_twice_is_storing_once(store: CodeStore) -> None:
    first = asyncio.run(store.put(CODE))
    assert asyncio.run(store.put(CODE)) == first
    assert first.sha256 == hashlib.sha256(CODE).hexdigest()
    assert first.size == len(CODE)
    assert files(store) == [store.path(first.sha256)]
    with store.open(first.sha256) as file:
        assert file.read() == CODE
    assert stat.S_IMODE(store.path(first.sha256).stat().st_mode) == 0o600
    assert stat.S_IMODE(store._directory.stat().st_mode) == 0o700


def test_what_is_refused_leaves_nothing(store: CodeStore) -> None:
    for data in (b"", b"no zip", zip_of(), os.urandom(10_001)):
        with pytest.raises(AwsError):
            asyncio.run(store.put(data))
    asyncio.run(store.check(CODE))
    assert files(store) == []


def test_a_full_disk_leaves_nothing(store: CodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dispatcher.code.store.os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(store.put(CODE))
    assert files(store) == []


def test_names_are_hashes_only(store: CodeStore) -> None:
    for name in ("../x", "a" * 63, "A" * 64, "a" * 64 + "\n"):
        with pytest.raises(ValueError, match="SHA-256"):
            store.path(name)


def test_a_signed_url_opens_its_code_until_it_expires(store: CodeStore, clock: Clock) -> None:
    sha256 = "ab" * 32
    url = store.signed_path(sha256, valid_s=60)
    path, _, query = url.partition("?")
    fields = dict(field.split("=") for field in query.split("&"))
    assert path == CODE_PATH + sha256
    assert fields["expires"] == str(int(NOW + 60))
    assert store.verify(path, fields["expires"], fields["signature"])
    for changed in (
        (CODE_PATH + "ac" * 32, fields["expires"], fields["signature"]),
        (path, str(int(NOW + 61)), fields["signature"]),
        (path, fields["expires"], fields["signature"][:-1] + "x"),
        (path, fields["expires"], ""),
        (path, fields["expires"], "ü"),
        (path, "", fields["signature"]),
        (path, "soon", fields["signature"]),
    ):
        assert not store.verify(*changed)
    clock.now = NOW + 61
    assert not store.verify(path, fields["expires"], fields["signature"])


def test_another_secret_signs_differently(store: CodeStore, tmp_path: Path) -> None:
    other = CodeStore(tmp_path / "other", b"other")
    assert not store.verify("/p", str(int(NOW + 9)), other.sign("/p", int(NOW + 9)))


def test_what_nothing_needs_goes_after_the_grace_period(store: CodeStore, clock: Clock) -> None:
    used, unused, fresh = (asyncio.run(store.put(zip_of(a__py=text))).sha256 for text in ("1", "2", "3"))
    left_over = store.path(used).parent / ".new-crashed"
    left_over.touch()
    for path in (store.path(used), store.path(unused), left_over):
        os.utime(path, (NOW, NOW))
    clock.now = NOW + GRACE_S - 1
    os.utime(store.path(fresh), (NOW + 100, NOW + 100))
    assert asyncio.run(store.collect({used})) == 0
    clock.now = NOW + GRACE_S + 1

    async def in_use() -> set[str]:
        return {used}

    assert asyncio.run(CodeCollector(store, in_use).collect_unused()) == 2
    assert {path.stem for path in files(store)} == {used, fresh}
