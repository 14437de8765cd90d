"""Placement: which mode an invocation of a function goes to."""

from dispatcher.catalog.resolving import Target
from workers.contract.messages import Mode


def mode_of(target: Target, default: Mode, living: frozenset[str]) -> Mode:
    """The mode that a function runs in: by its tag, else ``default``; a container image always in a docker mode.

    ``living``: the modes that a living worker serves.
    """
    image = bool(target.spec.image_uri)
    if target.mode is not None and not (image and target.mode == "local"):
        return target.mode
    if not image or default != "local":
        return default
    return "docker" if "docker" in living and "docker-reuse" not in living else "docker-reuse"
