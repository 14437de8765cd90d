"""Which runtime images the engine has, as JSON: ``python -m workers.images.state REGISTRY``.

``{"problem": "", "images": [{"runtime": …, "image": …, "state": …}]}`` with the states ``current``, ``outdated`` (built by
another version of the recipe), ``foreign`` (not built here), ``missing``, and ``unknown`` where no engine answers.
"""

import json
import sys
from typing import Any, Final

from workers.engine import Engine, EngineError
from workers.images import recipes
from workers.images.names import image_of

#: The label of an image built here; its value is the hash of the recipe.
LABEL: Final = "everwarm.recipe"


def state(engine: Engine, name: str, digest: str) -> str:
    """The state of an image whose recipe has this hash."""
    labels = engine.image_labels(name)
    if labels is None:
        return "missing"
    if LABEL not in labels:
        return "foreign"
    return "current" if labels[LABEL] == digest else "outdated"


def document(registry: str) -> dict[str, Any]:
    """The document: all images that there are recipes for, with their states."""
    found = [recipes.read(runtime) for runtime in recipes.runtimes()]
    try:
        engine, problem = Engine.connect(), ""
    except EngineError as error:
        engine, problem = None, str(error)
    images = []
    for recipe in found:
        name = image_of(recipe.runtime, registry)
        known = state(engine, name, recipe.digest) if engine else "unknown"
        images.append({"runtime": recipe.runtime, "image": name, "state": known})
    return {"problem": problem, "images": images}


if __name__ == "__main__":
    json.dump(document(sys.argv[1]), sys.stdout)
