"""Removing what functions leave, whatever it is."""

import os
from pathlib import Path

import pytest

from workers.disk.removal import remove

DEEP = 1500


def test_deeper_than_python_recurses_and_longer_than_a_path(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    here = os.open(victim, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    remove(victim)
    assert not list(tmp_path.iterdir())


def test_removal_follows_no_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    victim = tmp_path / "victim"
    (victim / "in").mkdir(parents=True)
    for link in (victim / "link", victim / "in" / "link"):
        link.symlink_to(kept)
    (victim / "in" / "dangling").symlink_to("/nonexistent")
    remove(victim)
    assert list(tmp_path.iterdir()) == [kept]
    assert (kept / "file").exists()


def test_directories_without_rights_are_removed_too(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    inner = victim / "a" / "b" / "c"
    inner.mkdir(parents=True)
    for path in (inner, inner.parent, inner.parent.parent):
        path.chmod(0)
    remove(victim)
    assert not list(tmp_path.iterdir())


def test_a_tree_of_many_files_is_removed(tmp_path: Path) -> None:
    for name in range(20):
        directory = tmp_path / "victim" / str(name)
        directory.mkdir(parents=True)
        for file in range(100):
            (directory / str(file)).touch()
    remove(tmp_path / "victim")
    assert not list(tmp_path.iterdir())


def test_what_is_gone_or_no_directory_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remove(tmp_path / "nothing")
    assert not caplog.records
    file = tmp_path / "file"
    file.touch()
    remove(file)
    assert "a directory stays" in caplog.text
    assert file.exists()
