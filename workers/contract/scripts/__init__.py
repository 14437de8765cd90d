"""The Lua scripts, one operation a file, each with its keys, arguments and answers in its header.

Redis' ``TIME`` is the only clock, an owner token and a generation fence late owners off, and answers are words.
"""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

NAMES: Final = (
    "accept",
    "acquire",
    "append_log",
    "claim",
    "enqueue",
    "finish",
    "forget",
    "heartbeat",
    "hold",
    "lease",
    "reclaim",
    "register",
    "rejoin",
    "release",
    "remove",
    "renew",
    "retire",
    "supersede",
    "sweep",
)


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
    return Script(name, files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8"))
