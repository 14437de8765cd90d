"""The recipes of the gate's own root file systems."""

import pytest

from tests.services import rootfs
from workers.images import recipes


@pytest.mark.parametrize("name", ["newest", "redis7"])
def test_a_recipe_can_be_read(name: str) -> None:
    assert recipes.read(name, rootfs._RECIPES).packages


def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert rootfs.main(["nothing"]) == 1
    assert capsys.readouterr().err == "tests: there is no recipe for nothing; there are newest, redis7\n"
