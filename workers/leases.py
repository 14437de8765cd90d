"""Leases: the exclusive right to use one environment.

Redis holds the records, its ``TIME`` is the only clock. Only the worker that owns an environment ever leases it, so a
record that contradicts the worker (Redis was emptied, or a release was lost with a connection) is written anew.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from workers.contract import keys
from workers.contract.messages import FunctionSpec
from workers.store import Store

#: How long a record lives unrenewed: what a killed worker leaves in Redis is gone after it.
RECORD_MS: Final = 120_000
#: How long a lease lasts unrenewed; a worker renews all of its own with each heartbeat.
LEASE_MS: Final = 30_000


@dataclass(slots=True)
class Lease:
    """The worker's copy of an environment's record."""

    environment: str
    spec: FunctionSpec
    mode: str
    worker: str
    generation: int = 0
    owner: str = ""
    """Token of the attempt that has it; empty while idle."""
    state: str = "starting"
    unsure: bool = False
    """Redis did not take the last change: the record is to be written anew."""
    container: str = ""

    def keys(self) -> list[str]:
        """The record's keys, as most scripts want them."""
        return [
            keys.environment(self.environment),
            keys.leases(self.worker),
            keys.idle(self.worker),
            keys.warm(self.mode, self.spec.revision),
        ]


class Leases:
    """The leases of one worker."""

    def __init__(self, store: Store, worker: str, mode: str) -> None:
        self._store = store
        self._worker = worker
        self._mode = mode

    def register(self, lease: Lease, state: str, owner: str) -> None:
        """Write the record: before the environment exists (``starting``), or again after Redis was lost."""
        lease.generation += 1
        lease.owner = owner
        lease.state = state
        lease.unsure = False
        spec = lease.spec
        description = {
            "worker": self._worker,
            "mode": self._mode,
            "account": spec.account,
            "region": spec.region,
            "function": spec.function,
            "version": spec.version,
            "revision": spec.revision,
            "container": lease.container,
        }
        fields = [word for pair in description.items() for word in pair]
        self._store.run(
            "register",
            [
                keys.environment(lease.environment),
                keys.environments(self._worker),
                keys.leases(self._worker),
                keys.idle(self._worker),
                keys.warm(self._mode, spec.revision),
            ],
            [lease.environment, state, owner, lease.generation, LEASE_MS, RECORD_MS, *fields],
        )

    def lease(self, lease: Lease, owner: str) -> None:
        """Take an idle environment of this worker."""
        answer = self._store.word(
            "lease", lease.keys(), [lease.environment, owner, lease.generation, LEASE_MS, RECORD_MS]
        )
        if answer == "leased":
            lease.generation += 1
            lease.owner = owner
            lease.state = "leased"
        else:
            self.register(lease, "leased", owner)

    def release(self, lease: Lease) -> None:
        """Hand it back, and stamp its last use."""
        answer = self._store.word(
            "release", lease.keys(), [lease.environment, lease.owner, lease.generation, RECORD_MS]
        )
        if answer == "idle":
            lease.owner = ""
            lease.state = "idle"
        else:
            self.register(lease, "idle", "")

    def retire(self, lease: Lease) -> str:
        """Take it out of service: ``retired``, ``gone``, or ``foreign`` when it is leased meanwhile."""
        return self._store.word(
            "retire",
            [*lease.keys(), keys.environments(self._worker)],
            [lease.environment, lease.owner, lease.generation],
        )

    def renew(self, leases: Iterable[Lease]) -> list[str]:
        """Say that they are all alive; answers the environments that Redis has no record of."""
        named = list(leases)
        names = [keys.environments(self._worker), keys.leases(self._worker), keys.idle(self._worker)]
        for lease in named:
            names += [keys.environment(lease.environment), keys.warm(self._mode, lease.spec.revision)]
        missing: list[bytes] = self._store.run(
            "renew", names, [RECORD_MS, LEASE_MS, *(lease.environment for lease in named)]
        )
        return [name.decode() for name in missing]

    def idle_past(self, idle_ms: int) -> list[str]:
        """This worker's environments that have been idle for longer than ``idle_ms``."""
        idle: list[bytes] = self._store.run("sweep", [keys.idle(self._worker)], [idle_ms])
        return [name.decode() for name in idle]
