"""The environments that a worker keeps warm, for the modes that keep any.

``take`` leases an idle one, most recently used first, has another worker run the invocation on an idle one of its own
(:class:`Moved`), or starts one; leaving its block hands it back when the runtime asks for the next event (until then the
function's timeout runs), else retires it. One thread has an environment at a time, so N concurrent invocations of a
function use N environments.

The record (state starting) precedes the process or container, and outlives it: what is destroyed was retired in Redis
before. Redis decides who has an idle environment, since other workers lease them too: one that turns out to be taken is
*promised* until the invocation for it arrives in this worker's mailbox (``accept``), or its lease has run out.
"""

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from workers.contract.messages import FunctionSpec
from workers.environments.budget import Budget
from workers.environments.environment import Environment
from workers.environments.leases import Lease, Leases
from workers.redis_client import Unavailable

#: How long a caller waits for another worker's environment that is about to be handed back.
_ELSEWHERE_S: Final = 0.01
#: Likewise a letter for an environment that this worker is about to put among the idle ones.
_ACCEPT_S: Final = 0.1
#: How often a caller that waits for room looks whether its time is over.
_ROOM_S: Final = 0.5

log = logging.getLogger(__name__)


class Starter(Protocol):
    """What a mode adds: how its environments come to be, and what is to be cleared away after them."""

    single_use: bool
    """Each invocation gets a process of its own."""
    hand_back_s: float
    """How long an environment takes from its answer to being idle, at most as a rule; less than a start takes."""

    def prepare(self, spec: FunctionSpec, code_url: str) -> str:
        """Have ready what a start would wait for; answers the id of the function's image, if any. Raises ``StartError``."""

    def start(self, environment: Environment, code_url: str) -> None:
        """Make the process or container and send START; do not wait for the runtime. Raises ``StartError``."""

    def wake(self, environment: Environment) -> Callable[[], bool]:
        """An idle one was chosen: see that it can take an event. What is returned waits, and is false when it is dead."""

    def rest(self, environment: Environment, left_s: float) -> bool:
        """Its answer is out: whether it became idle in the time that is left, and may be used again."""

    def destroy(self, environment: Environment) -> None:
        """End it and clear everything away; harmless when that was done."""


class StartError(Exception):
    """The environment could not be made. ``code`` is AWS's exception for it; the text is for the caller.

    ``state_code`` is AWS's StateReasonCode, when that comes out as a function is made ready.
    """

    def __init__(self, message: str, code: str = "ServiceException", state_code: str = "InternalError") -> None:
        super().__init__(message)
        self.code: Final = code
        self.state_code: Final = state_code


class Stopping(StartError):
    """The worker stops, and starts nothing any more."""


class FunctionFault(StartError):
    """The function's own code can't be started: an outcome, with this ``errorType``."""

    def __init__(self, message: str, error_type: str) -> None:
        super().__init__(message)
        self.error_type: Final = error_type


class Moved(Exception):
    """Another worker has the invocation now."""

    def __init__(self, worker: str) -> None:
        super().__init__(worker)
        self.worker: Final = worker


class NoRoom(Exception):
    """No environment ended or became idle in time: nobody began the invocation."""


@dataclass(frozen=True, slots=True)
class Order:
    """Who wants an environment, and what for."""

    spec: FunctionSpec
    owner: str
    """Token of the attempt."""
    code_url: str
    claim_by_ms: int
    """Unix time until which it may wait for room."""
    hold: Callable[[str], None] = field(repr=False)
    """Told the id of an environment that must be started for it; may raise."""
    letter: Callable[[], bytes] | None = field(default=None, repr=False)
    """What another worker would need to run it; ``None``: it stays here."""
    given: Environment | None = None
    """The environment that was leased for it by another worker."""


class Environments:
    """All environments of one worker."""

    def __init__(
        self,
        leases: Leases,
        make: Callable[[Lease, Callable[[Environment], None]], Environment],
        starter: Starter,
        *,
        budget: Budget,
        keepalive_ms: int,
        edition: Callable[[str], int],
    ) -> None:
        self._leases = leases
        self._make = make
        self._starter = starter
        self._budget = budget
        self._starts = threading.BoundedSemaphore(budget.starts)
        self._keepalive_ms = keepalive_ms
        self._edition = edition
        self._lock = threading.Lock()
        self._idle_again = threading.Condition(self._lock)
        """Notified when one was handed back, or is gone."""
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
        self.shared = False
        """There are other workers to share with."""

    @property
    def single_use(self) -> bool:
        """Whether each invocation gets a process of its own."""
        return self._starter.single_use

    # Leasing

    @contextmanager
    def take(self, order: Order) -> Iterator[Environment]:
        """Lease an environment.

        Raises :class:`Moved`, :class:`NoRoom`, :class:`StartError`, what ``hold`` raises, or what Redis raises when it is
        gone (``store.Unavailable``).
        """
        environment = self._given(order) or self._own(order) or self._elsewhere(order) or self._new(order)
        try:
            yield environment
        except BaseException:
            self.retire(environment)
            raise
        self._hand_back(environment)

    def _given(self, order: Order) -> Environment | None:
        environment = order.given
        if environment is None:
            return None
        if environment.edition == self._edition(order.spec.hot_reload_path) and self._starter.wake(environment)():
            return environment
        self.retire(environment)
        return None

    def _own(self, order: Order) -> Environment | None:
        """The most recently used idle one of this worker that can really be had and used."""
        while (environment := self._pop(order.spec)) is not None:
            awake = self._starter.wake(environment)
            if not self._leases.lease(environment.lease, order.owner):
                self._promise(environment)
            elif awake():
                return environment
            else:
                log.info("an environment died while it was idle", extra={"environment": environment.id})
                self.retire(environment)
        return None

    def _promise(self, environment: Environment) -> None:
        """Another worker was faster: it waits for that invocation."""
        with self._lock:
            environment.promised = True
            self._idle.setdefault(environment.spec.revision, []).insert(0, environment)
            self._idle_again.notify_all()

    def _pop(self, spec: FunctionSpec) -> Environment | None:
        edition = self._edition(spec.hot_reload_path)
        with self._lock:
            stale = self._supersede(spec)
            found = self._most_recent(spec.revision, edition, stale)
            if found is None and self._answered[spec.revision]:
                # A caller may be back before the runtime is; that is a matter of moments, and a start is not.
                self._idle_again.wait_for(
                    lambda: self._idle.get(spec.revision) or not self._answered[spec.revision],
                    self._starter.hand_back_s,
                )
                found = self._most_recent(spec.revision, edition, stale)
        for environment in stale:
            self._retire_idle(environment)
        return found

    def _most_recent(self, revision: str, edition: int, stale: list[Environment]) -> Environment | None:
        """Pop the most recently used one that can be used; what was edited since it began goes to ``stale``."""
        idle = self._idle.get(revision, [])
        for candidate in [environment for environment in reversed(idle) if not environment.promised]:
            idle.remove(candidate)
            if candidate.edition == edition and candidate.usable:
                return candidate
            stale.append(candidate)
        return None

    def _elsewhere(self, order: Order) -> Environment | None:
        """Another worker's idle one: then the invocation goes there. Or an own one that became idle meanwhile."""
        if order.letter is None or not self.shared:
            return None
        self._move(order)
        with self._lock:
            # One there may be about to be handed back, as one here may (see _pop).
            self._idle_again.wait(min(self._starter.hand_back_s, _ELSEWHERE_S))
        found = self._own(order)
        if found is None:
            self._move(order)
        return found

    def _move(self, order: Order) -> None:
        assert order.letter is not None, "it may be moved"
        worker = self._leases.acquire(order.spec.revision, order.owner, order.letter())
        if worker is not None:
            log.debug("an invocation is moved", extra={"owner": order.owner, "to": worker})
            raise Moved(worker)

    def accept(self, name: str, owner: str, generation: int) -> Environment | None:
        """An invocation has arrived that another worker leased an environment for: that one, if it still holds."""
        with self._lock:
            # Redis may know it to be idle a moment before it stands in the list here.
            self._idle_again.wait_for(lambda: name not in self._all or self._find_idle(name), _ACCEPT_S)
            found = self._find_idle(name)
            if found is None:
                return None
            self._idle[found.spec.revision].remove(found)
            found.promised = False
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
                continue  # It may be asked again.
        return False

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

    # Starting

    def _new(self, order: Order) -> Environment:
        spec = order.spec
        environment = self._reserve(order)
        if environment.lease.state != "starting":
            return environment
        try:
            order.hold(environment.id)
            environment.edition = self._edition(spec.hot_reload_path)
            self._leases.register(environment.lease, "starting", order.owner)
            with self._starts:
                self._starter.start(environment, order.code_url)
            if self._closed:
                raise Stopping("this worker is stopping")
        except BaseException:
            self.retire(environment)
            raise
        return environment

    def _reserve(self, order: Order) -> Environment:
        """Wait until there is room for one more, make room, and take it; or an own one that became idle meanwhile."""
        spec = order.spec
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
                    if time.time() * 1000 > order.claim_by_ms:
                        raise NoRoom
                    self._idle_again.wait(_ROOM_S)
            if going is not None:
                for one in going:
                    self._retire_idle(one)
                return environment
            if (own := self._own(order)) is not None:
                return own

    def _evictable(self) -> Sequence[Environment]:
        return [one for idle in self._idle.values() for one in idle if not one.promised]

    def started(self, environment: Environment) -> None:
        """The runtime asked for its first event: tell who looks at the records."""
        try:
            self._leases.register(environment.lease, "leased", environment.lease.owner)
        except Unavailable as error:
            log.info("a record stays at starting", extra={"environment": environment.id, "error": str(error)})

    def _hand_back(self, environment: Environment) -> None:
        left_s = max(environment.give_back_by - time.monotonic(), 0.0)
        if not self._starter.rest(environment, left_s) or self._keepalive_ms == 0:
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
                self._not_answered(environment)
        if not keep:
            self._retire_idle(environment)

    # Ending

    def retire(self, environment: Environment) -> None:
        """Take it out of service for good, then destroy it."""
        with self._lock:
            self._not_answered(environment)
            if self._all.pop(environment.id, None) is None:
                return
        environment.retired = True
        try:
            self._leases.remove(environment.lease)
        except Unavailable as error:
            # Its record expires by itself.
            log.warning(
                "a retired environment's record stays", extra={"environment": environment.id, "error": str(error)}
            )
        self._starter.destroy(environment)

    def _retire_idle(self, environment: Environment) -> None:
        """As :meth:`retire`, unless another worker has just leased it: then it does that work first."""
        try:
            leased = environment.usable and self._leases.retire(environment.lease) == "foreign"
        except Unavailable:
            leased = False
        if leased and not self._closed:
            self._promise(environment)
        else:
            self.retire(environment)

    def _on_gone(self, environment: Environment) -> None:
        """On the links' thread: it ended. If that was while idle, nobody else would notice."""
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
            self._retire_idle(environment)
        self._reclaim(found.expired)
        return len(dead) + len(going)

    def _reclaim(self, expired: Sequence[str]) -> None:
        """Leased for an invocation that never arrived: idle again."""
        with self._lock:
            lost = [one for idle in self._idle.values() for one in idle if one.id in expired]
        for environment in lost:
            if self._leases.reclaim(environment.lease):
                environment.promised = False

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
                and not environment.promised
                and f"{environment.spec.account}:{environment.spec.region}:{environment.spec.function}" == function
                and version in ("*", environment.spec.version)
            ]
            for environment in going:
                self._idle[environment.spec.revision].remove(environment)
        for environment in going:
            self._retire_idle(environment)

    def _forget_versions(self, arn: str, version: str) -> None:
        for name in [name for name in self._newest if name.rpartition(":")[0] == arn]:
            if version in ("*", name.rpartition(":")[2]):
                del self._newest[name]

    def cut(self, name: str, owner: str) -> None:
        """End what runs in the environment of that id, and in the one that was leased for that owner."""
        with self._lock:
            found = [one for one in self._all.values() if one.id == name or (one.lease.owner == owner and owner)]
        for environment in found:
            environment.cut()

    def cut_starting(self, owner: str) -> bool:
        """The same of an environment that is being started for an owner; whether there is one."""
        with self._lock:
            found = [one for one in self._all.values() if one.lease.owner == owner and not one.started]
        for environment in found:
            environment.cut()
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
            environment.promised = False

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
