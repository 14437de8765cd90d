"""Scripts about environments: their records, their leases, and the indexes they stand in.

What each is for, and how they play together, is told in ``workers.environments.leases``. ``life_ms`` is how long a record and
its indexes live unrenewed, ``lease_ms`` how long a lease lasts unrenewed.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, Final, Literal, NamedTuple, get_args

from workers.contract import keys
from workers.contract.scripts.call import Call, number_or, one_of, text, texts
from workers.contract.scripts.loader import load

State = Literal["starting", "leased", "idle"]

Register = Literal["newer"]
Lease = Literal["gone", "busy"]
Release = Literal["idle", "gone", "older", "foreign"]
Accept = Literal["accepted", "gone", "foreign"]
Reclaim = Literal["leased", "gone"]
Retire = Literal["retired", "gone", "foreign"]
Remove = Literal["removed"]

_REGISTER: Final = load("register")
_LEASE: Final = load("lease")
_RELEASE: Final = load("release")
_ACQUIRE: Final = load("acquire")
_ACCEPT: Final = load("accept")
_RECLAIM: Final = load("reclaim")
_RETIRE: Final = load("retire")
_REMOVE: Final = load("remove")
_RENEW: Final = load("renew")
_SWEEP: Final = load("sweep")
_decode_register: Final[Callable[[bytes], int | Register]] = number_or(get_args(Register))
_decode_lease: Final[Callable[[bytes], int | Lease]] = number_or(get_args(Lease))
_decode_release: Final[Callable[[bytes], Release]] = one_of(get_args(Release))
_decode_accept: Final[Callable[[bytes], Accept]] = one_of(get_args(Accept))
_decode_reclaim: Final[Callable[[bytes], int | Reclaim]] = number_or(get_args(Reclaim))
_decode_retire: Final[Callable[[bytes], Retire]] = one_of(get_args(Retire))
_decode_remove: Final[Callable[[bytes], Remove]] = one_of(get_args(Remove))

#: The prefixes of the keys that ``acquire`` computes.
_PREFIXES: Final = (keys.environment(""), keys.worker(""), keys.leases(""), keys.idle(""), keys.mailbox(""))


class EnvironmentKeys(NamedTuple):
    """One environment's name, and the keys of its record and of the indexes it stands in; they never change."""

    environment: str
    record: str
    environments: str
    """All environments of its worker."""
    leases: str
    """The leased ones of its worker."""
    idle: str
    """The idle ones of its worker."""
    warm: str
    """The idle ones of its revision, whoever owns them."""

    @classmethod
    def of(cls, environment: str, *, worker: str, mode: str, revision: str) -> "EnvironmentKeys":
        """The keys of an environment of ``worker``."""
        return cls(
            environment,
            keys.environment(environment),
            keys.environments(worker),
            keys.leases(worker),
            keys.idle(worker),
            keys.warm(mode, revision),
        )


class Renewal(NamedTuple):
    """What a worker knows of one of its environments when it renews them."""

    at: EnvironmentKeys
    generation: int
    owner: str
    """Token of the attempt that the worker runs on it; empty when it is idle."""


class Due(NamedTuple):
    """What a sweep found; names of environments."""

    idle: list[str]
    """Idle for too long: to be retired."""
    expired: list[str]
    """Their lease has ended: to be reclaimed, when the worker knows them to be idle."""


def register(
    at: EnvironmentKeys,
    *,
    state: State,
    owner: str,
    generation: int,
    lease_ms: int,
    life_ms: int,
    description: Mapping[str, str],
) -> Call[int | Register]:
    """Write the record: the generation it has now, or ``newer`` (it was idle, and is leased by then).

    ``generation``: one more than the worker's. ``description``: further fields of the record.
    """
    return Call(
        _REGISTER,
        (at.record, at.environments, at.leases, at.idle, at.warm),
        (at.environment, state, owner, generation, lease_ms, life_ms, *chain.from_iterable(description.items())),
        _decode_register,
    )


def lease(at: EnvironmentKeys, *, owner: str, generation: int, lease_ms: int, life_ms: int) -> Call[int | Lease]:
    """The environment's own worker leases it for an attempt: the generation it has now, ``gone`` (no record), or ``busy``
    (another worker was faster).

    ``generation``: the last one that the worker has seen.
    """
    return Call(
        _LEASE,
        (at.record, at.leases, at.idle, at.warm),
        (at.environment, owner, generation, lease_ms, life_ms),
        _decode_lease,
    )


def release(at: EnvironmentKeys, *, owner: str, generation: int, life_ms: int) -> Call[Release]:
    """Hand a leased environment back, and stamp its last use: ``idle``, or why it is not the owner's any more."""
    return Call(
        _RELEASE,
        (at.record, at.leases, at.idle, at.warm),
        (at.environment, owner, generation, life_ms),
        _decode_release,
    )


def acquire(
    *,
    mode: str,
    revision: str,
    worker: str,
    owner: str,
    batch: bytes,
    lease_ms: int,
    life_ms: int,
) -> Call[str | None]:
    """Move ``batch`` to an idle environment of another worker than ``worker``: that other worker's name, or ``None``."""
    return Call(
        _ACQUIRE,
        (keys.warm(mode, revision),),
        (worker, owner, lease_ms, life_ms, keys.MAILBOX_MS, batch, *_PREFIXES),
        _decode_acquire,
    )


def _decode_acquire(answer: bytes) -> str | None:
    return None if answer == b"none" else text(answer)


def accept(at: EnvironmentKeys, *, owner: str, generation: int, lease_ms: int, life_ms: int) -> Call[Accept]:
    """A moved batch has arrived at the worker that owns the environment: whether its lease begins.

    ``owner`` and ``generation`` are those of the message that brought it.
    """
    return Call(
        _ACCEPT,
        (at.record, at.leases),
        (at.environment, owner, generation, lease_ms, life_ms),
        _decode_accept,
    )


def reclaim(at: EnvironmentKeys, *, life_ms: int) -> Call[int | Reclaim]:
    """Take back an environment whose lease has ended without a message: the generation it has now, ``leased`` (the lease goes
    on), or ``gone`` (no record).
    """
    return Call(_RECLAIM, (at.record, at.leases, at.idle, at.warm), (at.environment, life_ms), _decode_reclaim)


def retire(at: EnvironmentKeys, *, owner: str, generation: int) -> Call[Retire]:
    """Take it out of service for good, if ``owner`` has it; an empty ``owner``: if it is idle."""
    return Call(
        _RETIRE,
        (at.record, at.leases, at.idle, at.warm, at.environments),
        (at.environment, owner, generation),
        _decode_retire,
    )


def remove(at: EnvironmentKeys) -> Call[Remove]:
    """Take the record away, whoever has leased it; only the worker that owned the environment may say so."""
    return Call(_REMOVE, (at.record, at.leases, at.idle, at.warm, at.environments), (at.environment,), _decode_remove)


def renew(renewals: Iterable[Renewal], *, worker: str, lease_ms: int, life_ms: int) -> Call[list[str]]:
    """All these environments of ``worker`` are alive, and the leases of those that it runs on go on.

    Answers the environments of which Redis has no record, or one that contradicts the worker.
    """
    names = [keys.environments(worker), keys.leases(worker), keys.idle(worker)]
    args: list[str | int] = [life_ms, lease_ms]
    for at, generation, owner in renewals:
        names += (at.record, at.warm)
        args += (at.environment, generation, owner)
    return Call(_RENEW, names, args, texts)


def sweep(*, worker: str, idle_ms: int) -> Call[Due]:
    """Name the environments of ``worker`` that have been idle for longer than ``idle_ms``, and those whose lease has ended."""
    return Call(
        _SWEEP,
        (keys.idle(worker), keys.leases(worker), keys.environments(worker)),
        (idle_ms, keys.environment("")),
        _decode_sweep,
    )


def _decode_sweep(answer: Any) -> Due:
    idle, expired = answer
    return Due(texts(idle), texts(expired))
