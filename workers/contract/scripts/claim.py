"""The three words of the ``claim`` script: whose an attempt is, from ``reserve`` (an environment is started for it) over
``run`` (it counts) to ``void`` (it never starts).

Of a worker that asks to run an attempt and a dispatcher that asks to void it, the first gets it, for good. Who asks again,
because the answer was lost with the connection, gets the same answer.
"""

from collections.abc import Callable
from typing import Final, Literal, get_args

from workers.contract import keys
from workers.contract.messages import Invocation
from workers.contract.scripts.call import Call, one_of
from workers.contract.scripts.loader import load

Run = Literal["run", "void", "taken", "late", "throttled"]
Reserve = Literal["reserved", "void", "taken", "late"]
Void = Literal["void", "reserved", "taken", "late"]

_CLAIM: Final = load("claim")
_decode_run: Final[Callable[[bytes], Run]] = one_of(get_args(Run))
_decode_reserve: Final[Callable[[bytes], Reserve]] = one_of(get_args(Reserve))
_decode_void: Final[Callable[[bytes], Void]] = one_of(get_args(Void))

#: Instead of a limit: the attempt takes no place in a concurrency set, since it has one already or never runs.
_NO_PLACE: Final = -1


def run(invocation: Invocation, *, worker: str, environment: str, life_ms: int) -> Call[Run]:
    """From here on the attempt counts: ``run``, or why it must not run.

    ``life_ms``: how long the record lives without another change, and the attempt's place in its concurrency set.
    """
    return Call(
        _CLAIM,
        (keys.invocation(invocation.request_id), invocation.counted_in),
        (
            "run", invocation.attempt, worker, environment, invocation.claim_by_ms, life_ms, invocation.limit,
            keys.member(invocation.request_id, invocation.attempt), life_ms,
        ),
        _decode_run,
    )  # fmt: skip


def reserve(invocation: Invocation, *, worker: str, environment: str, life_ms: int) -> Call[Reserve]:
    """``worker`` starts ``environment`` for the attempt: ``reserved``, or why it need not.

    ``life_ms``: how long the record lives without another change.
    """
    return Call(
        _CLAIM,
        (keys.invocation(invocation.request_id), ""),
        ("reserve", invocation.attempt, worker, environment, invocation.claim_by_ms, life_ms, _NO_PLACE, "", 0),
        _decode_reserve,
    )


def void(*, request_id: str, attempt: int, asker: str, life_ms: int) -> Call[Void]:
    """Make sure that the attempt never starts: ``void``, or that a worker was faster.

    ``asker``: what the record names instead of a worker. ``life_ms``: how long the record lives; it must outlive every copy of
    the attempt's message.
    """
    return Call(
        _CLAIM,
        (keys.invocation(request_id), ""),
        ("void", attempt, asker, "", 0, life_ms, _NO_PLACE, "", 0),
        _decode_void,
    )
