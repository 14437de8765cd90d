"""The environments that a worker keeps warm, for the modes that keep any.

``take`` leases an idle one, most recently used first, or starts one; leaving its block hands it back when the runtime
asks for the next event (until then the function's timeout runs), else retires it. One thread has an environment at a
time, so N concurrent invocations of a function use N environments.

The record (state starting) precedes the process, and outlives it: what is destroyed was retired in Redis before.
"""

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from workers.contract.messages import FunctionSpec
from workers.environment import Environment
from workers.leases import Lease, Leases
from workers.store import Unavailable

#: How long a caller waits for an environment that is about to be handed back; a start takes several times that.
_HAND_BACK_S: Final = 0.01

log = logging.getLogger(__name__)


class Starter(Protocol):
    """What a mode adds: how its environments come to be, and what is to be cleared away after them."""

    def start(self, environment: Environment, code_url: str) -> None:
        """Make the process or container and send START; do not wait for the runtime. Raises ``StartError``."""

    def destroy(self, environment: Environment) -> None:
        """End it and clear everything away; harmless when that was done."""


class StartError(Exception):
    """The environment could not be made. ``code`` is AWS's exception for it; the text is for the caller."""

    def __init__(self, message: str, code: str = "ServiceException") -> None:
        super().__init__(message)
        self.code: Final = code


class FunctionFault(StartError):
    """The function's own code can't be started: an outcome, with this ``errorType``."""

    def __init__(self, message: str, error_type: str) -> None:
        super().__init__(message)
        self.error_type: Final = error_type


class Environments:
    """All environments of one worker."""

    def __init__(
        self,
        leases: Leases,
        make: Callable[[Lease, Callable[[Environment], None]], Environment],
        starter: Starter,
        *,
        worker: str,
        mode: str,
        most: int,
        keepalive_ms: int,
        edition: Callable[[str], int],
    ) -> None:
        self._leases = leases
        self._make = make
        self._starter = starter
        self._worker = worker
        self._mode = mode
        self._most = most
        self._keepalive_ms = keepalive_ms
        self._edition = edition
        self._lock = threading.Lock()
        self._idle_again = threading.Condition(self._lock)
        self._answered: Counter[str] = Counter()
        """Revision → environments whose answer is out and which the runtime has not handed back yet."""
        self._all: dict[str, Environment] = {}
        self._idle: dict[str, list[Environment]] = {}
        """Revision → idle ones, the most recently used last."""
        self._newest: dict[str, str] = {}
        """Function version → the revision that last ran."""
        self._dead: list[Environment] = []
        """Ended while idle; the next sweep clears them away."""
        self._closed = False

    # Leasing

    @contextmanager
    def take(self, spec: FunctionSpec, owner: str, code_url: str, hold: Callable[[str], None]) -> Iterator[Environment]:
        """Lease an environment for the attempt ``owner``; ``hold`` is told the id of one that must be started for it.

        Raises :class:`StartError`, what ``hold`` raises, or what Redis raises when it is gone (``store.Unavailable``).
        """
        environment = self._pop(spec) or self._start(spec, owner, code_url, hold)
        try:
            if environment.lease.state == "idle":
                self._lease(environment, owner)
            yield environment
        except BaseException:
            self.retire(environment)
            raise
        self._hand_back(environment)

    def _lease(self, environment: Environment, owner: str) -> None:
        try:
            self._leases.lease(environment.lease, owner)
        except Unavailable:
            # It is ours whatever Redis says; the claim waits for Redis, and the next release writes the record anew.
            environment.lease.owner = owner
            environment.lease.state = "leased"
            environment.lease.unsure = True

    def _pop(self, spec: FunctionSpec) -> Environment | None:
        edition = self._edition(spec.hot_reload_path)
        with self._lock:
            stale = self._supersede(spec)
            found = self._most_recent(spec.revision, edition, stale)
            if found is None and self._answered[spec.revision]:
                # A caller may be back before the runtime is; that is a matter of moments, and a start is not.
                self._idle_again.wait_for(
                    lambda: self._idle.get(spec.revision) or not self._answered[spec.revision], _HAND_BACK_S
                )
                found = self._most_recent(spec.revision, edition, stale)
        for environment in stale:
            self.retire(environment)
        return found

    def _most_recent(self, revision: str, edition: int, stale: list[Environment]) -> Environment | None:
        """Pop the most recently used one that can be used; what was edited since it began goes to ``stale``."""
        idle = self._idle.get(revision, [])
        while idle:
            candidate = idle.pop()
            if candidate.edition == edition and candidate.usable:
                return candidate
            stale.append(candidate)
        return None

    def answered(self, environment: Environment) -> None:
        """The last answer of the thread that has it is about to go out."""
        with self._lock:
            environment.answered = True
            self._answered[environment.spec.revision] += 1

    def _not_answered(self, environment: Environment) -> None:
        """Holding the lock: it was handed back, or is no more."""
        if environment.answered:
            environment.answered = False
            self._answered[environment.spec.revision] -= 1
            if not self._answered[environment.spec.revision]:
                del self._answered[environment.spec.revision]
            self._idle_again.notify_all()

    def _supersede(self, spec: FunctionSpec) -> list[Environment]:
        """A new revision retires the idle environments of the old one."""
        name = f"{spec.arn}:{spec.version}"
        before = self._newest.get(name)
        self._newest[name] = spec.revision
        return self._idle.pop(before, []) if before is not None and before != spec.revision else []

    def _start(self, spec: FunctionSpec, owner: str, code_url: str, hold: Callable[[str], None]) -> Environment:
        self._make_room()
        lease = Lease(secrets.token_hex(16), spec, self._mode, self._worker)
        hold(lease.environment)
        environment = self._make(lease, self._on_gone)
        environment.edition = self._edition(spec.hot_reload_path)
        self._leases.register(lease, "starting", owner)
        with self._lock:
            if self._closed:
                raise StartError("this worker is stopping")
            self._all[environment.id] = environment
        try:
            self._starter.start(environment, code_url)
            if self._closed:
                raise StartError("this worker is stopping")
        except BaseException:
            self.retire(environment)
            raise
        return environment

    def started(self, environment: Environment) -> None:
        """The runtime asked for its first event: tell who looks at the records."""
        try:
            self._leases.register(environment.lease, "leased", environment.lease.owner)
        except Unavailable as error:
            log.info("a record stays at starting", extra={"environment": environment.id, "error": str(error)})

    def _make_room(self) -> None:
        with self._lock:
            if len(self._all) < self._most:
                return
            idle = [environments[0] for environments in self._idle.values() if environments]
            if not idle:
                return
            oldest = min(idle, key=lambda environment: environment.last_use)
            self._idle[oldest.spec.revision].remove(oldest)
        self.retire(oldest)

    def _hand_back(self, environment: Environment) -> None:
        left_s = max(environment.give_back_by - time.monotonic(), 0.0)
        if self._keepalive_ms == 0 or not environment.wait_idle(left_s):
            self.retire(environment)
            return
        try:
            self._leases.release(environment.lease)
        except Unavailable:
            # It is ours whatever Redis says.
            environment.lease.owner = ""
            environment.lease.state = "idle"
            environment.lease.unsure = True
        environment.last_use = time.monotonic()
        with self._lock:
            spec = environment.spec
            current = self._newest.get(f"{spec.arn}:{spec.version}") == spec.revision
            keep = current and not self._closed and environment.usable
            if keep:
                self._idle.setdefault(spec.revision, []).append(environment)
                self._not_answered(environment)
        if not keep:
            self.retire(environment)

    # Ending

    def retire(self, environment: Environment) -> None:
        """Take it out of service for good, then destroy it."""
        with self._lock:
            self._not_answered(environment)
            if self._all.pop(environment.id, None) is None:
                return
        environment.retired = True
        try:
            self._leases.retire(environment.lease)
        except Unavailable as error:
            # Its record expires by itself.
            log.warning(
                "a retired environment's record stays", extra={"environment": environment.id, "error": str(error)}
            )
        self._starter.destroy(environment)

    def _on_gone(self, environment: Environment) -> None:
        """On the links' thread: an environment's process ended. An idle one is not handed out any more."""
        with self._lock:
            idle = self._idle.get(environment.spec.revision, [])
            if environment in idle:
                idle.remove(environment)
                self._dead.append(environment)

    def sweep(self, idle_ms: int) -> int:
        """Retire what has been idle for longer than ``idle_ms`` by Redis' clock, and what died; answers how many."""
        due = set(self._leases.idle_past(idle_ms))
        with self._lock:
            dead, self._dead = self._dead, []
            going = []
            for revision, environments in list(self._idle.items()):
                going += [environment for environment in environments if environment.id in due]
                kept = [environment for environment in environments if environment.id not in due]
                if kept:
                    self._idle[revision] = kept
                else:
                    del self._idle[revision]
        for environment in dead + going:
            self.retire(environment)
        return len(dead) + len(going)

    def supersede(self, note: str) -> None:
        """Retire the idle environments that a note of ``supersede.lua`` is about."""
        name, _, revision = note.partition("=")
        function, _, version = name.rpartition(":")
        with self._lock:
            if not revision:
                gone = function.split(":", 2)
                self._forget_versions(f"arn:aws:lambda:{gone[1]}:{gone[0]}:function:{gone[2]}", version)
            going = [
                environment
                for environments in self._idle.values()
                for environment in environments
                if environment.spec.revision != revision
                and f"{environment.spec.account}:{environment.spec.region}:{environment.spec.function}" == function
                and version in ("*", environment.spec.version)
            ]
            for environment in going:
                self._idle[environment.spec.revision].remove(environment)
        for environment in going:
            self.retire(environment)

    def _forget_versions(self, arn: str, version: str) -> None:
        for name in [name for name in self._newest if name.rpartition(":")[0] == arn]:
            if version in ("*", name.rpartition(":")[2]):
                del self._newest[name]

    # Upkeep

    def renew(self) -> None:
        """Keep the records alive, and write those anew that Redis has lost."""
        with self._lock:
            environments = dict(self._all)
        if not environments:
            return
        missing = self._leases.renew(environment.lease for environment in environments.values())
        unsure = [name for name, environment in environments.items() if environment.lease.unsure]
        for name in {*missing, *unsure}:
            environment = environments[name]
            if not environment.retired:
                self._leases.register(environment.lease, environment.lease.state, environment.lease.owner)

    def interrupt_all(self) -> None:
        """The worker stops: end everything that runs."""
        with self._lock:
            self._closed = True
            environments = list(self._all.values())
        for environment in environments:
            environment.interrupt()

    def close(self) -> None:
        """Destroy all environments."""
        with self._lock:
            self._closed = True
            environments = list(self._all.values())
            self._idle.clear()
        for environment in environments:
            self.retire(environment)
