"""Root file systems of images: the cache, and what is said where they can't be built."""

import os
import shutil
from pathlib import Path

import pytest

from workers.images import recipes, rootfs
from workers.images.rootfs import BuildError, archive, cache_directory


def test_the_cache_is_the_user_s() -> None:
    assert cache_directory({"HOME": "/home/ada"}) == Path("/home/ada/.cache/everwarm/images")
    assert cache_directory({"HOME": "/home/ada", "XDG_CACHE_HOME": "/big"}) == Path("/big/everwarm/images")


def test_an_archive_that_is_there_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    recipe = recipes.read("python3.11")
    there = tmp_path / f"python3.11-{recipe.digest}.tar"
    there.touch()
    assert archive(recipe, tmp_path) == there


def test_only_root_can_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BuildError, match="image of python3.11 can only be built by root; run the command with sudo"):
        archive(recipes.read("python3.11"), tmp_path)


@pytest.mark.parametrize(("program", "runtime"), [("mmdebstrap", "python3.11"), ("npm", "nodejs20.x")])
def test_a_missing_program_is_named_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, runtime: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == program else f"/usr/bin/{name}")
    with pytest.raises(BuildError, match=f"{program} is missing; type: apt-get install {program}"):
        archive(recipes.read(runtime), tmp_path)


def test_a_build_that_fails_leaves_nothing_and_shows_what_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "mmdebstrap").write_text("#!/bin/sh\necho no such suite\nexit 3\n")
    (programs / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(BuildError, match="could not be built; mmdebstrap said:\nno such suite"):
        archive(recipes.read("python3.11"), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_archives_that_nobody_used_for_long_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, used = tmp_path / "python3.11-0.tar", tmp_path / "python3.11-1.tar"
    left = tmp_path / ".python3.11-abc"
    left.mkdir()
    for path in (old, used):
        path.touch()
    for path in (old, left):
        os.utime(path, (0, 0))
    rootfs._forget_old(tmp_path)
    assert list(tmp_path.iterdir()) == [used]
