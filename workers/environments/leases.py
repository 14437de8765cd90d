"""Leases: the exclusive right to use one environment.

Words: an environment *belongs* to the worker that started it, and only that worker ever runs on it. Its record in Redis
is ``starting``, ``idle`` or ``leased``. The worker *owns the lease* from ``register``, ``lease`` or ``accept`` to
``release``. Another worker may only ``acquire`` it: lease the environment in Redis, and *move* a batch there by a message
to the mailbox of the worker that the environment belongs to.

So there are two copies of the truth, and each is the better one about something. The worker knows better whether it owns
a lease: what it owns is leased, whatever Redis says. Redis knows better who was first: what the worker knows to be idle
may be leased by another worker already, whose message is on the way. Each change of owner raises the *generation*, and
by comparing generations both sides see which copy is behind:

* The record's is higher when another worker acquired the environment. The worker leaves the environment alone until the
  message comes, or until the lease ends without one (the message was lost: ``sweep`` names the environment, ``reclaim``
  takes it back).
* The worker's is higher, or there is no record, when Redis was lost, or lost its last writes. The record is written anew.

Redis' ``TIME`` is the only clock. A late owner (older generation, other token) changes nothing. A script may be run
twice, because its answer can be lost with a connection. Several threads use one :class:`Lease`: its lock makes the copy
and the record change together.
"""

import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from workers.contract.messages import FunctionSpec
from workers.contract.scripts import leasing
from workers.contract.scripts.leasing import Due, EnvironmentKeys, Renewal, State
from workers.redis_client import Store, Unavailable

#: How long a record lives unrenewed: what a killed worker leaves in Redis is gone after it.
RECORD_MS: Final = 120_000
#: How long a lease lasts unrenewed; a worker renews those it owns every few seconds.
LEASE_MS: Final = 30_000
#: How long an acquired environment waits for its message. After that nobody waits for a synchronous call any more.
MOVE_MS: Final = 10_000


@dataclass(slots=True)
class Lease:
    """The worker's copy of an environment's record."""

    environment: str
    spec: FunctionSpec
    mode: str
    worker: str
    generation: int = 0
    owner: str = ""
    """Token of the attempt that has the lease; empty while the environment is idle."""
    state: State | Literal["retired"] = "starting"
    """``starting``, ``leased``, ``idle``, or ``retired``: its record must not come back."""
    unsure: bool = False
    """Redis did not take the last change, or did not say so: the record is to be written anew."""
    container: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    keys: EnvironmentKeys = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.keys = EnvironmentKeys.of(
            self.environment, worker=self.worker, mode=self.mode, revision=self.spec.revision
        )

    @property
    def is_owned(self) -> bool:
        """Whether this worker owns the lease, and so may run on the environment."""
        return self.state in ("starting", "leased")


class Leases:
    """The leases of one worker."""

    def __init__(
        self,
        store: Store,
        worker: str,
        mode: str,
        *,
        channel: str = "",
        lease_ms: int = LEASE_MS,
        move_ms: int = MOVE_MS,
    ) -> None:
        self._channel = channel
        self._store = store
        self._worker = worker
        self._mode = mode
        self._lease_ms = lease_ms
        self._move_ms = move_ms

    def new(self, environment: str, spec: FunctionSpec) -> Lease:
        """The lease of a new environment of this worker, which has no record yet."""
        return Lease(environment, spec, self._mode, self._worker)

    # Owning

    def register(self, lease: Lease, state: State, owner: str) -> None:
        """Write the record: before the environment exists (``starting``), or once it is ``leased`` or ``idle``.

        When Redis is gone the copy has changed all the same, and is marked as unsure.
        """
        with lease.lock:
            self._register(lease, state, owner)

    def _register(self, lease: Lease, state: State, owner: str) -> None:
        lease.generation += 1
        lease.owner = owner
        lease.state = state
        lease.unsure = True
        spec = lease.spec
        description = {
            "worker": self._worker,
            "mode": self._mode,
            "channel": self._channel,
            "account": spec.account,
            "region": spec.region,
            "function": spec.function,
            "version": spec.version,
            "revision": spec.revision,
            "container": lease.container,
        }
        answer = self._store.run(
            leasing.register(
                lease.keys,
                state=state,
                owner=owner,
                generation=lease.generation,
                lease_ms=self._lease_ms,
                life_ms=RECORD_MS,
                description=description,
            )
        )
        if answer == "newer":
            # Another worker has acquired the environment. The copy keeps its lower generation, because that is how this
            # worker sees from now on that it is behind.
            lease.generation -= 1
        else:
            lease.generation = answer
        lease.unsure = False

    def lease(self, lease: Lease, owner: str) -> bool:
        """Lease an environment that this worker knows to be idle, and that no other thread leases.

        False when another worker has leased it just before: nothing has changed, and that worker's message is on the way.
        While Redis is gone the answer is True: the environment is this worker's whatever Redis says, and the claim waits
        for Redis.
        """
        with lease.lock:
            if lease.state != "idle":
                return False
            try:
                answer = self._store.run(
                    leasing.lease(
                        lease.keys,
                        owner=owner,
                        generation=lease.generation,
                        lease_ms=self._lease_ms,
                        life_ms=RECORD_MS,
                    )
                )
                if answer == "busy":
                    return False
                if answer == "gone":
                    self._register(lease, "leased", owner)
                    return True
                lease.generation = answer
                lease.unsure = False
            except Unavailable:
                # Redis may have leased it and the answer was lost: what comes next must be later than that.
                lease.generation += 1
                lease.unsure = True
            lease.owner = owner
            lease.state = "leased"
            return True

    def release(self, lease: Lease) -> None:
        """Hand an environment back, and stamp its last use; the copy is idle, also when Redis is gone."""
        with lease.lock:
            try:
                if lease.unsure or self._release(lease) in ("gone", "older"):
                    self._register(lease, "idle", "")
            except Unavailable:
                lease.unsure = True
            lease.owner = ""
            lease.state = "idle"

    def _release(self, lease: Lease) -> leasing.Release:
        """The script's word; ``foreign`` is nothing to mend: another worker has acquired it, or its lease ends and is reclaimed."""
        return self._store.run(
            leasing.release(lease.keys, owner=lease.owner, generation=lease.generation, life_ms=RECORD_MS)
        )

    # Sharing

    def acquire(self, revision: str, owner: str, batch: bytes) -> str | None:
        """Move a batch to an idle environment of another worker; answers that worker's name, or None.

        The other worker may get it twice when Redis' answer is lost; the claim lets one of the two run.
        """
        # No two workers may use the same token, not even for the same attempt in a message that was delivered twice.
        token = f"{owner}@{self._worker}"
        return self._store.run(
            leasing.acquire(
                mode=self._mode,
                revision=revision,
                worker=self._worker,
                owner=token,
                batch=batch,
                lease_ms=self._move_ms,
                life_ms=RECORD_MS,
            )
        )

    def accept(self, lease: Lease, owner: str, generation: int) -> bool:
        """A message has come for an environment that no other thread leases: whether its batch has the lease.

        False when this worker owns the lease already, or when the other worker's lease ended before the message came: the
        batch then needs an environment like any other. Raises what Redis raises when it is gone; accepting may be repeated.
        """
        with lease.lock:
            if lease.state != "idle":
                return False
            answer = self._store.run(
                leasing.accept(
                    lease.keys, owner=owner, generation=generation, lease_ms=self._lease_ms, life_ms=RECORD_MS
                )
            )
            if answer == "foreign":
                return False
            lease.generation = max(lease.generation, generation)
            lease.owner = owner
            lease.state = "leased"
            lease.unsure = answer == "gone"
            if lease.unsure:
                with suppress(*Unavailable):  # It is restored with the next renewal.
                    self._register(lease, "leased", owner)
            return True

    def reclaim(self, lease: Lease) -> bool:
        """Take back an idle environment whose lease has ended without a message; whether it is idle in Redis now."""
        with lease.lock:
            if lease.state != "idle":
                return False
            try:
                answer = self._store.run(leasing.reclaim(lease.keys, life_ms=RECORD_MS))
            except Unavailable:
                lease.unsure = True
                raise
            if answer == "leased":
                return False
            if answer == "gone":
                self._register(lease, "idle", "")
            else:
                lease.generation = answer
            return True

    # Ending

    def retire(self, lease: Lease) -> leasing.Retire:
        """Take an environment out of service, if nobody has it: ``retired``, ``gone`` (no record, so nobody has it either), or
        ``foreign``: another worker has leased it, and it must be kept for the message.
        """
        with lease.lock:
            answer = self._store.run(leasing.retire(lease.keys, owner=lease.owner, generation=lease.generation))
            if answer != "foreign":
                lease.state = "retired"
            return answer

    def remove(self, lease: Lease) -> None:
        """Take away the record of an environment that is dead, or whose worker ends, whoever has leased it.

        When Redis is gone the record expires by itself, and is not written again.
        """
        with lease.lock:
            lease.state = "retired"
            self._store.run(leasing.remove(lease.keys))

    # Upkeep

    def renew(self, leases: Iterable[Lease]) -> list[str]:
        """Say that all these environments are alive, and move the deadlines of the leases that are owned.

        Answers the environments of which Redis has no record, or one that contradicts: they are to be restored.
        """
        renewals = [Renewal(one.keys, one.generation, one.owner if one.is_owned else "") for one in leases]
        return self._store.run(leasing.renew(renewals, worker=self._worker, lease_ms=self._lease_ms, life_ms=RECORD_MS))

    def restore(self, lease: Lease) -> None:
        """Write a record anew that is missing, wrong or unsure; not that of a retired one."""
        with lease.lock:
            if lease.state != "retired":
                self._register(lease, lease.state, lease.owner)

    def sweep(self, idle_ms: int) -> Due:
        """This worker's environments that have been idle for longer than ``idle_ms``, and those whose lease has ended."""
        return self._store.run(leasing.sweep(worker=self._worker, idle_ms=idle_ms))
