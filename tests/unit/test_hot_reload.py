"""Hot reload: an edit changes the edition at the very next question."""

from pathlib import Path

from tests.services.waiting import wait_until
from workers.hot_reload import HotReload


def test_an_edit_is_seen_and_silence_is_not(tmp_path: Path) -> None:
    code = tmp_path / "m.py"
    code.write_text("1")
    watched = HotReload()
    before = watched.edition(str(tmp_path))
    assert watched.edition(str(tmp_path)) == before
    code.write_text("2")
    wait_until("the edit is seen", lambda: watched.edition(str(tmp_path)) > before, timeout_s=5)
    after = watched.edition(str(tmp_path))
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "m.pyc").write_text("x")
    assert watched.edition(str(tmp_path)) == after
    watched.close()


def test_a_directory_that_is_gone_is_another_edition(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    watched = HotReload()
    before = watched.edition(str(folder))
    assert watched.edition(str(folder)) > before
    folder.mkdir()
    found = watched.edition(str(folder))
    assert watched.edition(str(folder)) == found
    watched.close()


def test_without_hot_reload_nothing_is_watched() -> None:
    assert HotReload().edition("") == 0
