"""Directories of workers: what dead ones left is removed, and nothing else is touched."""

import os
import shutil
import time
from pathlib import Path

import pytest

from workers.disk.run_directory import PREFIX, RunDirectory


def make(place: Path, told: list[Path] | None = None) -> RunDirectory:
    return RunDirectory(place, (told if told is not None else []).append)


def dead(place: Path, name: str) -> Path:
    path = place / f"{PREFIX}{name}"
    (path / "code" / "tree").mkdir(parents=True)
    (path / "lock").touch()
    return path


def test_living_ones_stay_and_dead_ones_go(tmp_path: Path) -> None:
    left = dead(tmp_path, "left")
    told: list[Path] = []
    first = make(tmp_path, told)
    assert told == [left]
    second = make(tmp_path, told)
    assert set(tmp_path.iterdir()) == {first.path, second.path}
    assert told == [left]
    assert first.path.stat().st_mode & 0o777 == 0o711
    first.close()
    second.close()
    assert not list(tmp_path.iterdir())


def test_what_others_put_there_keeps_no_worker_from_starting(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}dangling").symlink_to("/nonexistent")
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}empty").mkdir()
    elsewhere = dead(tmp_path / "elsewhere", "x")
    (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)
    before = set(tmp_path.iterdir())
    found = make(tmp_path)
    assert set(tmp_path.iterdir()) == {*before, found.path}
    assert elsewhere.is_dir()
    found.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_are_left_alone(tmp_path: Path) -> None:
    theirs = dead(tmp_path, "theirs")
    os.chown(theirs, 12345, 12345)
    make(tmp_path).close()
    assert list(tmp_path.iterdir()) == [theirs]


def test_one_that_fails_does_not_keep_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abc":
        dead(tmp_path, name)
    fails = f"{PREFIX}b"

    def tell(run: Path) -> None:
        if run.name == fails:
            raise PermissionError(run.name)

    found = RunDirectory(tmp_path, tell)
    assert {path.name for path in tmp_path.iterdir()} == {fails, found.path.name}
    assert "what a dead worker left stays" in caplog.text
    found.close()


def test_one_that_another_worker_removes_meanwhile(tmp_path: Path) -> None:
    left = [dead(tmp_path, name) for name in "ab"]

    def remove_all(_run: Path) -> None:
        for path in left:
            shutil.rmtree(path, ignore_errors=True)

    found = RunDirectory(tmp_path, remove_all)
    assert list(tmp_path.iterdir()) == [found.path]
    found.close()


def test_one_that_is_starting_is_left_alone_unless_it_is_old(tmp_path: Path) -> None:
    starting, old = tmp_path / "everwarm-new-a", tmp_path / "everwarm-new-b"
    starting.mkdir()
    old.mkdir()
    os.utime(old, (time.time() - 3600,) * 2)
    make(tmp_path).close()
    assert list(tmp_path.iterdir()) == [starting]
