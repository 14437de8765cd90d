"""Scripts by which a worker says that it lives, and by which all workers are told of new revisions."""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Final, Literal, get_args

from workers.contract import keys
from workers.contract.scripts.call import Call, one_of, text
from workers.contract.scripts.loader import load

Supersede = Literal["noted"]

_HEARTBEAT: Final = load("heartbeat")
_SUPERSEDE: Final = load("supersede")
_decode_supersede: Final[Callable[[bytes], Supersede]] = one_of(get_args(Supersede))


def heartbeat(*, worker: str, life_ms: int, new_epoch: str, description: Mapping[str, str | int]) -> Call[str]:
    """``worker`` lives for another ``life_ms``. Answers the epoch: another than before means that Redis was lost.

    ``new_epoch``: a random word, which becomes the epoch of a Redis that has none. ``description``: fields of the
    worker's record; not empty.
    """
    return Call(
        _HEARTBEAT,
        (keys.worker(worker), keys.WORKERS, keys.EPOCH),
        (worker, life_ms, new_epoch, *chain.from_iterable(description.items())),
        text,
    )


def supersede(*, function: str, version: str, revision: str) -> Call[Supersede]:
    """Note for all workers that ``version`` of ``function`` (``account:region:name``) has ``revision`` now.

    ``version``: ``*`` for all of them. ``revision``: empty when the version is gone.
    """
    return Call(
        _SUPERSEDE, (keys.SUPERSEDED,), (f"{function}:{version}={revision}", keys.SUPERSEDED_MS), _decode_supersede
    )
