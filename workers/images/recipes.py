"""What the images are made of: the recipes in ``compose/images``."""

import hashlib
import platform
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: Grows when a change of the code makes another root file system of the same recipe.
_FORMAT: Final = 1
_INSTALLED: Final = Path(__file__).parent / "recipes"
_CHECKOUT: Final = Path(__file__).parents[2] / "compose" / "images"


class UnknownRecipe(Exception):
    """There is no recipe for a runtime: one line says which there are."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one image is built."""

    runtime: str
    suite: str
    """Debian's word for the release that has the runtime."""
    packages: tuple[str, ...]
    layers: tuple[Path, ...]
    variables: dict[str, str]
    """Variables for the layers' scripts."""
    compile_packages: tuple[str, ...]
    """Packages that the layers' ``compile`` scripts need in a root file system of their own; none: nothing is compiled."""
    digest: str
    """Hash of everything above, of the layers' files and of the machine's architecture."""

    @property
    def changes(self) -> tuple[str, ...]:
        """The image's settings, as Dockerfile instructions."""
        lines = [line for file in _in_layers(self.layers, "changes") for line in file.read_text().splitlines()]
        return (*filter(None, lines), f"LABEL everwarm.recipe={self.digest}")

    def files(self, layer: Path) -> tuple[Path, ...]:
        """What a layer puts into the image."""
        return tuple(path for path in _files(layer) if path.is_relative_to(layer / "root"))

    def scripts(self, name: str) -> tuple[Path, ...]:
        """The layers' scripts of that name, in order."""
        return tuple(_in_layers(self.layers, name))


def directory() -> Path:
    """Where the recipes are: beside this file when Everwarm is installed, in ``compose/images`` of a checkout."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def runtimes(recipes: Path | None = None) -> list[str]:
    """The runtimes that there are recipes for."""
    return sorted(file.name.removesuffix(".toml") for file in (recipes or directory()).glob("*.toml"))


def read(runtime: str, recipes: Path | None = None) -> Recipe:
    """The recipe of a runtime. Raises :class:`UnknownRecipe`."""
    folder = recipes or directory()
    known = runtimes(folder)
    if runtime not in known:
        raise UnknownRecipe(f"there is no recipe for {runtime}; there are {', '.join(known)}")
    file = folder / f"{runtime}.toml"
    content: dict[str, Any] = tomllib.loads(file.read_text())
    layers = tuple(folder / name for name in content["layers"])
    return Recipe(
        runtime,
        content["suite"],
        tuple(content["packages"]),
        layers,
        dict(content.get("variables", {})),
        tuple(content.get("compile", {}).get("packages", ())),
        _digest(file, layers),
    )


def _in_layers(layers: tuple[Path, ...], name: str) -> Iterator[Path]:
    return (layer / name for layer in layers if (layer / name).is_file())


def _files(layer: Path) -> list[Path]:
    """The files of a layer, without what an installation has compiled."""
    return sorted(path for path in layer.rglob("*") if path.is_file() and path.parent.name != "__pycache__")


def _digest(file: Path, layers: tuple[Path, ...]) -> str:
    """Hash over names and contents; not over modes and times, which differ between checkouts and installations."""
    state = hashlib.sha256(f"{_FORMAT} {platform.machine()} {file.name}\0".encode())
    state.update(file.read_bytes())
    for layer in layers:
        for path in _files(layer):
            content = path.read_bytes()
            state.update(f"\0{path.relative_to(layer.parent)}\0{len(content)}\0".encode())
            state.update(content)
    return state.hexdigest()[:32]
