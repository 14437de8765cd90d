"""Recipes: what they say, and the hash that tells whether an image is as its recipe is now."""

import shutil
from pathlib import Path

import pytest

from workers.images import recipes
from workers.images.names import image_of


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with the recipes, to change."""
    return Path(shutil.copytree(recipes.directory(), tmp_path / "recipes"))


@pytest.mark.parametrize("runtime", recipes.runtimes())
def test_every_recipe_is_of_a_runtime_and_keeps_the_contract_s_settings(runtime: str) -> None:
    recipe = recipes.read(runtime)
    assert image_of(runtime)
    assert all(layer.is_dir() for layer in recipe.layers)
    assert 'ENTRYPOINT ["/lambda-entrypoint.sh"]' in recipe.changes
    assert f"LABEL everwarm.recipe={recipe.digest}" in recipe.changes
    assert bool(recipe.scripts("compile")) == bool(recipe.compile_packages)


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(recipes.UnknownRecipe, match=r"no recipe for cobol1; there are .*python3\.11"):
        recipes.read("cobol1")


@pytest.mark.parametrize("runtime", ["../common", "", "python3.11/"])
def test_a_name_is_no_path(runtime: str) -> None:
    with pytest.raises(recipes.UnknownRecipe):
        recipes.read(runtime)


def test_the_hash_does_not_depend_on_where_the_recipes_are_nor_on_modes(copied: Path) -> None:
    for file in copied.rglob("*"):
        if file.is_file():
            file.chmod(0o600)
    assert recipes.read("python3.11", copied).digest == recipes.read("python3.11").digest


@pytest.mark.parametrize(
    "name", ["python3.11.toml", "common/changes", "python/install", "python/root/var/runtime/bootstrap"]
)
def test_the_hash_is_another_after_any_change(copied: Path, name: str) -> None:
    before = recipes.read("python3.11", copied).digest
    file = copied / name
    file.write_text(file.read_text() + "\n# changed\n")
    assert recipes.read("python3.11", copied).digest != before


def test_the_hash_stays_when_another_recipe_s_layer_changes(copied: Path) -> None:
    before = recipes.read("python3.11", copied).digest
    (copied / "node" / "install").write_text("exit 1\n")
    assert recipes.read("python3.11", copied).digest == before
