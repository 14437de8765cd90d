"""The sources of the scripts, and the names by which Redis knows them."""

import hashlib
from functools import cache
from importlib.resources import files


class Script:
    """One script: its source, and the SHA-1 by which Redis knows it."""

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


@cache
def load(name: str) -> Script:
    """Reads ``<name>.lua``; raises ``FileNotFoundError`` for a name that is not there."""
    return Script(name, files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8"))
