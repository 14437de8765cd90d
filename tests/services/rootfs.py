"""Root file systems that the gate needs, made as those of the runtime images: ``python -m tests.services.rootfs NAME...``.

The recipes are in ``.ci/roots``; for each NAME one line says where its archive is, in the cache of the tests. The NAME
``images`` stands for those of the runtime images, which can be made so before any container engine runs. Needs nothing but
Python itself, so that it can go on while the tests' other packages are being installed.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from workers.images import recipes
from workers.images.rootfs import BuildError, archive, cache_directory

_RECIPES: Final = Path(__file__).parents[2] / ".ci" / "roots"
_CACHE: Final = Path("/var/cache/everwarm-tests/roots")
_IMAGES: Final = "images"
#: Half of a build is waiting for downloads.
_AT_A_TIME: Final = 2


def build(name: str) -> list[Path]:
    """The archives that a name stands for. Raises ``BuildError`` and ``UnknownRecipe``."""
    if name != _IMAGES:
        return [archive(recipes.read(name, _RECIPES), _CACHE)]
    wanted = [recipes.read(runtime) for runtime in recipes.runtimes()]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(lambda recipe: archive(recipe, cache_directory(os.environ)), wanted))


def main(names: Sequence[str]) -> int:
    """Build them in order; the exit status."""
    try:
        for name in names:
            print(*build(name), sep="\n", flush=True)
    except (BuildError, recipes.UnknownRecipe) as error:
        print(f"tests: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
