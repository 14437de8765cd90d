"""Scripts about one attempt of an invocation beside its claim: how it gets in, and how it ends."""

from collections.abc import Callable
from typing import Final, Literal, get_args

from workers.contract import keys
from workers.contract.messages import FunctionSpec, Invocation
from workers.contract.scripts.call import Call, one_of
from workers.contract.scripts.loader import load

Enqueue = Literal["enqueued", "throttled"]
Finish = Literal["done", "stale"]
Forget = Literal["forgotten"]
Rejoin = Literal["rejoined", "known"]

_ENQUEUE: Final = load("enqueue")
_FINISH: Final = load("finish")
_FORGET: Final = load("forget")
_REJOIN: Final = load("rejoin")
_decode_enqueue: Final[Callable[[bytes], Enqueue]] = one_of(get_args(Enqueue))
_decode_finish: Final[Callable[[bytes], Finish]] = one_of(get_args(Finish))
_decode_forget: Final[Callable[[bytes], Forget]] = one_of(get_args(Forget))
_decode_rejoin: Final[Callable[[bytes], Rejoin]] = one_of(get_args(Rejoin))


def enqueue(
    invocation: Invocation,
    *,
    limit: int,
    place_ms: int,
    queue: str,
    message: bytes,
    payload: bytes,
    payload_ms: int,
) -> Call[Enqueue]:
    """Admit a synchronous attempt to its concurrency set, unless that has ``limit`` already (-1: no limit), and publish its
    Celery ``message``.

    ``place_ms``: after this long the place is free again, whatever becomes of the attempt. ``payload``: one that is too
    large for the message, else empty; its key lives for ``payload_ms``.
    """
    return Call(
        _ENQUEUE,
        (invocation.counted_in, queue, keys.payload(invocation.request_id)),
        (
            limit, keys.member(invocation.request_id, invocation.attempt), place_ms, message, payload, payload_ms,
        ),
        _decode_enqueue,
    )  # fmt: skip


def finish(spec: FunctionSpec, invocation: Invocation, outcome: bytes, *, life_ms: int) -> Call[Finish]:
    """The attempt has ended: free its place, and hand ``outcome`` to the dispatcher that waits, or to the ledger.

    ``outcome``: an encoded ``Outcome``. ``life_ms``: how long the record and an unread reply live. ``stale``: a newer attempt has begun, nobody waits for this one.
    """
    return Call(
        _FINISH,
        (
            keys.invocation(invocation.request_id),
            keys.concurrency(spec.account, spec.region, spec.function),
            keys.concurrency(spec.account, spec.region),
            invocation.reply_to,
            invocation.payload_key or keys.payload(invocation.request_id),
        ),
        (
            invocation.attempt,
            keys.member(invocation.request_id, invocation.attempt),
            outcome,
            life_ms,
            "stream" if invocation.reply_to == keys.OUTCOMES else "list",
        ),
        _decode_finish,
    )


def forget(
    *, account: str, region: str, function: str, request_id: str, attempt: int, payload_key: str, life_ms: int
) -> Call[Forget]:
    """The dispatcher gives up an attempt that it voided, or whose worker died: free its place.

    ``life_ms``: how long the record lives.
    """
    return Call(
        _FORGET,
        (
            keys.concurrency(account, region, function),
            keys.concurrency(account, region),
            payload_key,
            keys.invocation(request_id),
        ),
        (keys.member(request_id, attempt), attempt, life_ms),
        _decode_forget,
    )


def rejoin(spec: FunctionSpec, invocation: Invocation, *, worker: str, environment: str, left_ms: int) -> Call[Rejoin]:
    """After Redis was lost, record again that ``worker`` runs the attempt, which may last ``left_ms`` more."""
    return Call(
        _REJOIN,
        (
            keys.invocation(invocation.request_id),
            invocation.counted_in or keys.concurrency(spec.account, spec.region),
        ),
        (
            invocation.attempt, worker, environment, keys.member(invocation.request_id, invocation.attempt), left_ms,
        ),
        _decode_rejoin,
    )  # fmt: skip
