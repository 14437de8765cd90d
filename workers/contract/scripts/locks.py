"""The script by which one process of several is the one that does something."""

from collections.abc import Callable
from typing import Final, Literal, get_args

from workers.contract.scripts.call import Call, one_of
from workers.contract.scripts.loader import load

Lock = Literal["locked", "other"]

_LOCK: Final = load("lock")
_decode_lock: Final[Callable[[bytes], Lock]] = one_of(get_args(Lock))


def lock(key: str, *, owner: str, life_ms: int) -> Call[Lock]:
    """Lock ``key`` for ``owner``, or go on having it locked, for ``life_ms``; ``other``: another owner has it."""
    return Call(_LOCK, (key,), (owner, life_ms), _decode_lock)
