"""Memory groups on the machine's own kernel; skipped where none can be made, as in most containers."""

import os
from pathlib import Path

import pytest

from workers.modes.local.cgroups import MemoryGroups, remove_leftovers


@pytest.fixture
def run(tmp_path: Path) -> Path:
    found = tmp_path / f"everwarm-test-{os.getpid()}-cgroups"
    found.mkdir()
    if not (groups := MemoryGroups(found)).usable:
        pytest.skip("no memory groups can be made here")
    groups.close()
    return found


def test_a_groups_limit_is_the_kernels(run: Path) -> None:
    groups = MemoryGroups(run)
    group = groups.create("one", 128)
    assert group is not None
    limits = [group / "memory.limit_in_bytes", group / "memory.max"]
    assert [int(file.read_text()) for file in limits if file.exists()] == [128 << 20]
    groups.remove("one")
    assert not group.exists()
    groups.close()
    assert not group.parent.exists()


def test_what_a_dead_worker_left_is_removed(run: Path) -> None:
    group = MemoryGroups(run).create("one", 128)
    assert group is not None
    remove_leftovers(run)
    assert not group.parent.exists()
    remove_leftovers(run)


def test_a_note_that_names_another_place_is_not_believed(run: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "inner").mkdir(parents=True)
    (run / "memory-group").write_text(str(victim))
    remove_leftovers(run)
    assert (victim / "inner").is_dir()
