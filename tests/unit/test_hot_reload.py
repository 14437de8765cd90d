"""Hot reload: an edit changes the edition at the very next question."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.environments.hot_reload import HotReload


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[HotReload]:
    place = tmp_path / "place"
    place.mkdir()
    found = HotReload(place)
    yield found
    found.close()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    found = tmp_path / "code"
    found.mkdir()
    return found


def test_every_edit_is_seen_at_once_and_silence_is_not(watched: HotReload, code: Path) -> None:
    before = watched.code_version(str(code))
    for number in range(100):
        assert watched.code_version(str(code)) == before
        (code / "m.py").write_text(str(number))
        after = watched.code_version(str(code))
        assert after > before, f"edit {number} was not seen"
        before = after


def test_what_python_compiles_is_no_edit(watched: HotReload, code: Path) -> None:
    before = watched.code_version(str(code))
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "m.pyc").write_text("x")
    assert watched.code_version(str(code)) == before


def test_a_directory_that_is_gone_is_another_code_version(watched: HotReload, code: Path) -> None:
    code.rmdir()
    before = watched.code_version(str(code))
    assert watched.code_version(str(code)) > before
    code.mkdir()
    found = watched.code_version(str(code))
    assert watched.code_version(str(code)) == found


def test_without_hot_reload_nothing_is_watched(watched: HotReload) -> None:
    assert watched.code_version("") == 0
