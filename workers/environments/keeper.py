"""The keeper of the environments of one worker: it leases, starts, hands back and retires them.

:meth:`EnvironmentKeeper.lease` leases an idle environment, most recently used first; or has another worker run the
invocation on an idle one of its own (:class:`Moved`); or starts a new one. At the end of its block the environment is handed
back as soon as the runtime asks for the next event (until then the function's timeout runs), else retired. One thread has an
environment at a time, so N concurrent invocations of a function use N environments.

The record in Redis (state starting) precedes the process or container, and outlives it: what is destroyed was retired in
Redis before. Redis decides who has an idle environment, since other workers lease them too: one that turns out to be
taken is marked as *leased remotely* until the invocation for it arrives in this worker's mailbox (``accept_lease``), or
its lease has run out.
"""

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from workers.contract.messages import FunctionSpec
from workers.environments.budget import Budget
from workers.environments.environment import Environment
from workers.environments.leases import Lease, Leases
from workers.environments.starter import Starter, StartError, Stopping
from workers.redis_client import Unavailable

#: How long a caller waits for another worker's environment that is about to be handed back.
_ELSEWHERE_S: Final = 0.01
#: How long a moved invocation waits for its environment, which this worker is about to put among the idle ones.
_ACCEPT_S: Final = 0.1
#: How often a caller that waits for room looks whether its time is over.
_ROOM_S: Final = 0.5

log = logging.getLogger(__name__)


class Moved(Exception):
    """Another worker has the invocation now."""

    def __init__(self, worker: str) -> None:
        super().__init__(worker)
        self.worker: Final = worker


class NoRoom(Exception):
    """No environment ended or became idle in time: nobody began the invocation."""


@dataclass(frozen=True, slots=True)
class EnvironmentRequest:
    """Who wants an environment, and what for."""

    spec: FunctionSpec
    owner: str
    """Token of the attempt."""
    code_url: str
    claim_by_ms: int
    """Unix time in ms until which the request may wait for room."""
    reserve: Callable[[str], None] = field(repr=False)
    """Told the id of an environment that must be started for it; may raise."""
    message: Callable[[], bytes] | None = field(default=None, repr=False)
    """What another worker would need to run the invocation; ``None``: it stays here."""
    leased: Environment | None = None
    """The environment of this worker that another worker has leased for it."""


class EnvironmentKeeper:
    """All environments of one worker."""

    def __init__(
        self,
        leases: Leases,
        make: Callable[[Lease, Callable[[Environment], None]], Environment],
        starter: Starter,
        *,
        budget: Budget,
        keepalive_ms: int,
        code_version: Callable[[str], int],
    ) -> None:
        """``make`` makes an environment of its lease and what is to be told when it has ended; ``code_version`` answers the version of a hot-reload directory."""
        self._leases = leases
        self._make = make
        self._starter = starter
        self._budget = budget
        self._starts = threading.BoundedSemaphore(budget.starts)
        self._keepalive_ms = keepalive_ms
        self._code_version = code_version
        self._lock = threading.Lock()
        self._idle_again = threading.Condition(self._lock)
        """Notified when an environment was handed back, or is gone."""
        self._answered: Counter[str] = Counter()
        """Revision → how many environments have their answer out and were not handed back by the runtime yet."""
        self._all: dict[str, Environment] = {}
        self._idle: dict[str, list[Environment]] = {}
        """Revision → idle ones, the most recently used last."""
        self._newest: dict[str, str] = {}
        """Function version → the revision that last ran."""
        self._dead: list[Environment] = []
        """Ended while idle; the next sweep clears them away."""
        self._closed = False
        self.shared = False
        """There are other workers to share with."""

    @property
    def single_use(self) -> bool:
        """Whether each invocation gets a process of its own."""
        return self._starter.single_use

    # Leasing

    @contextmanager
    def lease(self, request: EnvironmentRequest) -> Iterator[Environment]:
        """Lease an environment for the block.

        Raises :class:`Moved`, :class:`NoRoom`, :class:`StartError`, what ``reserve`` raises, or what Redis raises when it
        is gone (``redis_client.Unavailable``).
        """
        environment = (
            self._use_leased(request)
            or self._lease_own(request)
            or self._lease_elsewhere(request)
            or self._start_new(request)
        )
        try:
            yield environment
        except BaseException:
            self.retire(environment)
            raise
        self._hand_back(environment)

    def _use_leased(self, request: EnvironmentRequest) -> Environment | None:
        """The environment that another worker leased for the request, if it can still be used."""
        environment = request.leased
        if environment is None:
            return None
        current = self._code_version(request.spec.hot_reload_path)
        if environment.code_version == current and self._starter.activate(environment)():
            return environment
        self.retire(environment)
        return None

    def _lease_own(self, request: EnvironmentRequest) -> Environment | None:
        """The most recently used idle one of this worker that can really be had and used."""
        while (environment := self._pop_idle(request.spec)) is not None:
            is_active = self._starter.activate(environment)
            if not self._leases.lease(environment.lease, request.owner):
                self._mark_leased_remotely(environment)
            elif is_active():
                return environment
            else:
                log.info("an environment died while it was idle", extra={"environment": environment.id})
                self.retire(environment)
        return None

    def _mark_leased_remotely(self, environment: Environment) -> None:
        """Another worker was faster: the environment waits for that worker's invocation."""
        with self._lock:
            environment.leased_remotely = True
            self._idle.setdefault(environment.spec.revision, []).insert(0, environment)
            self._idle_again.notify_all()

    def _pop_idle(self, spec: FunctionSpec) -> Environment | None:
        version = self._code_version(spec.hot_reload_path)
        with self._lock:
            stale = self._pop_superseded(spec)
            found = self._pop_most_recent(spec.revision, version, stale)
            if found is None and self._answered[spec.revision]:
                # A caller that has its answer may call again before the runtime has asked for the next event. Waiting for
                # that takes a moment; starting another environment would take far longer.
                self._idle_again.wait_for(
                    lambda: self._idle.get(spec.revision) or not self._answered[spec.revision],
                    self._starter.hand_back_s,
                )
                found = self._pop_most_recent(spec.revision, version, stale)
        for environment in stale:
            self._retire_unless_leased(environment)
        return found

    def _pop_most_recent(self, revision: str, version: int, stale: list[Environment]) -> Environment | None:
        """The most recently used one that can be used; what was edited since it was started goes to ``stale``."""
        idle = self._idle.get(revision, [])
        for candidate in [environment for environment in reversed(idle) if not environment.leased_remotely]:
            idle.remove(candidate)
            if candidate.code_version == version and candidate.usable:
                return candidate
            stale.append(candidate)
        return None

    def _lease_elsewhere(self, request: EnvironmentRequest) -> Environment | None:
        """Move the invocation to another worker's idle environment; answers an own one that became idle meanwhile."""
        if request.message is None or not self.shared:
            return None
        self._try_to_move(request)
        with self._lock:
            # One there may be about to be handed back, as one here may (see _pop_idle).
            self._idle_again.wait(min(self._starter.hand_back_s, _ELSEWHERE_S))
        found = self._lease_own(request)
        if found is None:
            self._try_to_move(request)
        return found

    def _try_to_move(self, request: EnvironmentRequest) -> None:
        assert request.message is not None, "the invocation may be moved"
        worker = self._leases.acquire(request.spec.revision, request.owner, request.message())
        if worker is not None:
            log.debug("an invocation is moved", extra={"owner": request.owner, "to": worker})
            raise Moved(worker)

    def accept_lease(self, name: str, owner: str, generation: int) -> Environment | None:
        """An invocation has arrived that another worker leased environment ``name`` for: that one, if the lease is still valid."""
        with self._lock:
            # Redis may know it to be idle a moment before it stands in the list here.
            self._idle_again.wait_for(lambda: name not in self._all or self._find_idle(name), _ACCEPT_S)
            found = self._find_idle(name)
            if found is None:
                return None
            self._idle[found.spec.revision].remove(found)
            found.leased_remotely = False
        if not self._accept(found, owner, generation):
            with self._lock:
                self._idle.setdefault(found.spec.revision, []).append(found)
            return None
        return found

    def _find_idle(self, name: str) -> Environment | None:
        return next((one for idle in self._idle.values() for one in idle if one.id == name), None)

    def _accept(self, environment: Environment, owner: str, generation: int) -> bool:
        for _ in range(2):
            try:
                return self._leases.accept(environment.lease, owner, generation)
            except Unavailable:
                continue  # Accepting may be repeated.
        return False

    def mark_answered(self, environment: Environment) -> None:
        """The last answer of the thread that has the environment is about to go out."""
        with self._lock:
            environment.answered = True
            self._answered[environment.spec.revision] += 1

    def _clear_answered(self, environment: Environment) -> None:
        """The environment was handed back, or is no more; the caller has the lock."""
        if environment.answered:
            environment.answered = False
            self._answered[environment.spec.revision] -= 1
            if not self._answered[environment.spec.revision]:
                del self._answered[environment.spec.revision]
        self._idle_again.notify_all()

    def _pop_superseded(self, spec: FunctionSpec) -> list[Environment]:
        """The idle environments of the revision before, which a new revision retires."""
        name = f"{spec.arn}:{spec.version}"
        before = self._newest.get(name)
        self._newest[name] = spec.revision
        return self._idle.pop(before, []) if before is not None and before != spec.revision else []

    # Starting

    def _start_new(self, request: EnvironmentRequest) -> Environment:
        spec = request.spec
        environment = self._reserve_room(request)
        if environment.lease.state != "starting":
            return environment
        try:
            request.reserve(environment.id)
            environment.code_version = self._code_version(spec.hot_reload_path)
            self._leases.register(environment.lease, "starting", request.owner)
            with self._starts:
                self._starter.start(environment, request.code_url)
            if self._closed:
                raise Stopping("this worker is stopping")
        except BaseException:
            self.retire(environment)
            raise
        return environment

    def _reserve_room(self, request: EnvironmentRequest) -> Environment:
        """Wait until there is room for one more, make room, and take it; or an own one that became idle meanwhile."""
        spec = request.spec
        if problem := self._budget.never(spec):
            raise StartError(problem)
        while True:
            with self._lock:
                if self._closed:
                    raise Stopping("this worker is stopping")
                going = self._budget.room_for(spec, self._all.values(), self._evictable())
                if going is not None:
                    lease = self._leases.new(secrets.token_hex(16), spec)
                    environment = self._all[lease.environment] = self._make(lease, self._on_gone)
                    for one in going:
                        self._idle[one.spec.revision].remove(one)
                else:
                    if time.time() * 1000 > request.claim_by_ms:
                        raise NoRoom
                    self._idle_again.wait(_ROOM_S)
            if going is not None:
                for one in going:
                    self._retire_unless_leased(one)
                return environment
            if (own := self._lease_own(request)) is not None:
                return own

    def _evictable(self) -> Sequence[Environment]:
        return [one for idle in self._idle.values() for one in idle if not one.leased_remotely]

    def mark_started(self, environment: Environment) -> None:
        """The runtime asked for its first event: tell who looks at the records."""
        try:
            self._leases.register(environment.lease, "leased", environment.lease.owner)
        except Unavailable as error:
            log.info("a record stays at starting", extra={"environment": environment.id, "error": str(error)})

    def _hand_back(self, environment: Environment) -> None:
        left_s = max(environment.give_back_by - time.monotonic(), 0.0)
        if not self._starter.after_invocation(environment, left_s) or self._keepalive_ms == 0:
            self.retire(environment)
            return
        self._leases.release(environment.lease)
        environment.last_use = time.monotonic()
        with self._lock:
            spec = environment.spec
            current = self._newest.get(f"{spec.arn}:{spec.version}") == spec.revision
            keep = current and not self._closed and environment.usable
            if keep:
                self._idle.setdefault(spec.revision, []).append(environment)
                self._clear_answered(environment)
        if not keep:
            self._retire_unless_leased(environment)

    # Ending

    def retire(self, environment: Environment) -> None:
        """Take an environment out of service for good, then destroy it."""
        with self._lock:
            self._clear_answered(environment)
            if self._all.pop(environment.id, None) is None:
                return
        try:
            self._leases.remove(environment.lease)
        except Unavailable as error:
            # The record expires by itself.
            log.warning(
                "a retired environment's record stays", extra={"environment": environment.id, "error": str(error)}
            )
        self._starter.destroy(environment)

    def _retire_unless_leased(self, environment: Environment) -> None:
        """Retire an environment, but not before it has run the invocation that another worker has just leased it for."""
        try:
            leased = environment.usable and self._leases.retire(environment.lease) == "foreign"
        except Unavailable:
            leased = False
        if leased and not self._closed:
            self._mark_leased_remotely(environment)
        else:
            self.retire(environment)

    def _on_gone(self, environment: Environment) -> None:
        """The environment ended, as the links' thread says. If that was while it was idle, nobody else would notice."""
        with self._lock:
            idle = self._idle.get(environment.spec.revision, [])
            if environment in idle:
                idle.remove(environment)
                self._dead.append(environment)

    def sweep(self, idle_ms: int) -> int:
        """Retire what has been idle for longer than ``idle_ms`` by Redis' clock, and what died; answers how many."""
        found = self._leases.sweep(idle_ms)
        due = set(found.idle)
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
        for environment in dead:
            self.retire(environment)
        for environment in going:
            self._retire_unless_leased(environment)
        self._reclaim(found.expired)
        return len(dead) + len(going)

    def _reclaim(self, expired: Sequence[str]) -> None:
        """Take back those that were leased for an invocation that never arrived: they are idle again."""
        with self._lock:
            lost = [one for idle in self._idle.values() for one in idle if one.id in expired]
        for environment in lost:
            if self._leases.reclaim(environment.lease):
                environment.leased_remotely = False

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
                and not environment.leased_remotely
                and f"{environment.spec.account}:{environment.spec.region}:{environment.spec.function}" == function
                and version in ("*", environment.spec.version)
            ]
            for environment in going:
                self._idle[environment.spec.revision].remove(environment)
        for environment in going:
            self._retire_unless_leased(environment)

    def _forget_versions(self, arn: str, version: str) -> None:
        for name in [name for name in self._newest if name.rpartition(":")[0] == arn]:
            if version in ("*", name.rpartition(":")[2]):
                del self._newest[name]

    def abort(self, name: str, owner: str) -> None:
        """End what runs in the environment of that id, and in the one that was leased for that owner."""
        with self._lock:
            found = [one for one in self._all.values() if one.id == name or (one.lease.owner == owner and owner)]
        for environment in found:
            environment.abort()

    def abort_starting(self, owner: str) -> bool:
        """End what is being started for an owner; answers whether there is such an environment."""
        with self._lock:
            found = [one for one in self._all.values() if one.lease.owner == owner and not one.started]
        for environment in found:
            environment.abort()
        return bool(found)

    # Upkeep

    def knows(self, name: str) -> bool:
        """Whether an environment of that id is this worker's, starting ones included."""
        return name in self._all

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
            self._leases.restore(environment.lease)
            environment.leased_remotely = False

    def interrupt_all(self) -> None:
        """The worker stops: end everything that runs."""
        with self._lock:
            self._closed = True
            environments = list(self._all.values())
            self._idle_again.notify_all()
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
