"""The command that builds runtime images: ``python -m workers.images.build [--registry R] [RUNTIME...]``.

One line of standard output for each image; what went wrong is one line of standard error and status 1.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from workers.engine import Engine, EngineError, EngineUnavailable
from workers.images import recipes
from workers.images.names import AWS_REGISTRY, image_of
from workers.images.recipes import Recipe, UnknownRecipe
from workers.images.rootfs import BuildError, archive, cache_directory
from workers.images.state import state

#: Builds at a time; two even on one core, because half of a build is waiting for downloads.
_AT_A_TIME: Final = 2


def build(engine: Engine, runtimes: Sequence[str], registry: str, cache: Path) -> Iterator[str]:
    """Build the images that the engine lacks as their recipes are now; yields a line for each image, as they are done.

    Raises ``UnknownRecipe``, ``BuildError`` and ``EngineError``; the images after the first that fails are not begun.
    """
    wanted = [recipes.read(runtime) for runtime in runtimes or recipes.runtimes()]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        running = [pool.submit(_image, engine, recipe, registry, cache, bool(runtimes)) for recipe in wanted]
        try:
            for done in as_completed(running):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _image(engine: Engine, recipe: Recipe, registry: str, cache: Path, named: bool) -> str:
    name = image_of(recipe.runtime, registry)
    found = state(engine, name, recipe.digest)
    if found == "current":
        return f"{name}: is there"
    if found == "foreign" and not named:
        return f"{name}: is there, and was not built here; to replace it, name {recipe.runtime}"
    began = time.monotonic()
    tar = archive(recipe, cache)
    engine.import_image(tar, name, recipe.changes)
    return f"{name}: built in {time.monotonic() - began:.0f} s, {tar.stat().st_size / 1e6:.0f} MB"


def main(arguments: Sequence[str]) -> int:
    """Run the command; answers its exit status."""
    parser = argparse.ArgumentParser(prog="everwarm images build", description="Build runtime images.")
    parser.add_argument("--registry", default=AWS_REGISTRY, help="what the images' names begin with (%(default)s)")
    parser.add_argument("runtime", nargs="*", help=f"what to build (all): {', '.join(recipes.runtimes())}")
    given = parser.parse_args(arguments)
    try:
        engine = Engine.connect()
        for line in build(engine, given.runtime, given.registry, cache_directory(os.environ)):
            print(line, flush=True)
    except EngineUnavailable as error:
        print(f"everwarm: no container engine answers; start one, or set DOCKER_HOST ({error})", file=sys.stderr)
        return 1
    except (UnknownRecipe, BuildError, EngineError) as error:
        print(f"everwarm: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
