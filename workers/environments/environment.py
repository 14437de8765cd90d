"""One environment: a relay with a runtime, able to run one invocation at a time for one revision.

An environment knows nothing of how its relay was started: a mode's starter attaches one, tied to a process or a
container, before it sends START. Where every invocation gets a process of its own, the starter attaches a new relay for
each. The methods block and are called by the thread that has the lease; the link's callbacks come from the links' thread.
"""

import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from workers.contract.messages import FunctionSpec
from workers.environments.leases import Lease
from workers.function_logs import LogBuffer
from workers.link.answers import Answer, End, Event, Exited, LinkBroken, StartAnswer, Started, TimedOut
from workers.link.loop_thread import LoopThread
from workers.link.relay_link import Link

T = TypeVar("T")

#: How long a relay may take to kill a tree and say so.
KILL_S: Final = 5.0

log = logging.getLogger(__name__)


class Relay(Protocol):
    """What an environment needs of the relay that a starter made."""

    link: Link

    def pause_reading(self) -> None:
        """Take nothing more from the relay; on the links' thread."""

    def resume_reading(self) -> None:
        """Undo :meth:`pause_reading`."""

    def close(self, patience_s: float = ...) -> Coroutine[Any, Any, object]:
        """End the relay and its tree, by force after ``patience_s``; on the links' thread."""


class EnvironmentBroken(Exception):
    """The environment ended for a reason that is the platform's fault."""


class Interrupted(EnvironmentBroken):
    """The worker stopped and ended the environment."""


@dataclass(frozen=True, slots=True)
class _Attached:
    """What an environment runs on from its start on."""

    relay: Relay
    log_buffer: LogBuffer


class Environment:
    """An environment from the moment there is room for it; it runs on what :meth:`attach` was given."""

    def __init__(self, lease: Lease, loop: LoopThread, on_gone: Callable[["Environment"], None]) -> None:
        self.lease = lease
        self.init_ms = 0.0
        """How long the cold start took, until an invocation has reported it; else 0."""
        self.last_use = 0.0
        """Monotonic time; orders this worker's environments when room is needed."""
        self.give_back_by = 0.0
        """Monotonic time at which the function's timeout for the latest invocation ends."""
        self.answered = False
        """The answer of the latest invocation is out, and the environment was not handed back yet."""
        self.code_version = 0
        """Which version of the hot-reload directory was there when the environment was started."""
        self.interrupted = False
        """The worker stops, and has the environment killed."""
        self.leased_remotely = False
        """Another worker has just leased it for an invocation that is on its way here."""
        self.gone = threading.Event()
        """Set when the process tree is gone, and the link is closed."""
        self.end: End | None = None
        self._loop = loop
        self._on_gone = on_gone
        self._attached: _Attached | None = None
        self._aborted = False
        """What runs in it is being ended, and it takes nothing more."""
        self._started = False
        self._idle = threading.Event()

    @property
    def id(self) -> str:
        """The environment's name in Redis, and its container's label."""
        return self.lease.environment

    @property
    def spec(self) -> FunctionSpec:
        """The revision that the environment runs."""
        return self.lease.spec

    @property
    def started(self) -> bool:
        """Whether initialisation is over, and was reported by :meth:`wait_started`."""
        return self._started

    @property
    def relay(self) -> Relay:
        """The relay that was attached last."""
        assert self._attached is not None, "a starter attaches a relay before anything is asked of it"
        return self._attached.relay

    @property
    def log_buffer(self) -> LogBuffer:
        """The buffer of what the runtime below the attached relay writes."""
        assert self._attached is not None, "a starter attaches a log buffer before anything is written"
        return self._attached.log_buffer

    @property
    def memory_kb(self) -> int:
        """Peak of the environment's memory so far."""
        return self.relay.link.memory_kb

    # For the starter

    def attach(self, relay: Relay, log_buffer: LogBuffer) -> None:
        """From here on the environment runs on this relay, which has not been sent START yet."""
        self._attached = _Attached(relay, log_buffer)
        self._idle.clear()

    def reset(self) -> None:
        """The process tree is gone, and the next one has not begun: the environment is idle, and not started."""
        self._started = False
        self._aborted = False
        self.end = None
        self.gone.clear()
        self._idle.set()

    # Callbacks of the link

    def on_log(self, data: bytes) -> None:
        """The function wrote something."""
        self.log_buffer.write(data)

    def on_idle(self) -> None:
        """The runtime, and every extension, asks for the next event."""
        self._idle.set()

    def on_exit(self, end: End) -> None:
        """The process tree is gone, and the environment with it."""
        self.on_process_exit(end)
        self._on_gone(self)

    def on_process_exit(self, end: End) -> None:
        """The process tree is gone; the environment stays where the next one can be started in it."""
        self.end = end
        self.gone.set()
        self._idle.set()

    # For the thread that has the lease

    @property
    def usable(self) -> bool:
        """Whether the runtime asks for an event."""
        return self._idle.is_set() and not self.gone.is_set() and not self._aborted

    def wait_started(self, timeout_s: float) -> StartAnswer | None:
        """How initialisation ended; ``None``: it has not, and the environment was killed. Raises :class:`EnvironmentBroken`."""
        found = self._wait(self.relay.link.started, timeout_s)
        if isinstance(found, Started):
            self._started = True
            self.init_ms = found.init_ms
            self._idle.set()
        return found

    def invoke(self, event: Event, timeout_s: float) -> Answer | TimedOut:
        """Run one invocation; over its time the tree is killed. Raises :class:`EnvironmentBroken`."""
        self._idle.clear()
        if self.gone.is_set():  # It ended just before, and nothing will set it again.
            self._idle.set()
        self.give_back_by = time.monotonic() + timeout_s
        answer: Future[Answer] = Future()
        link = self.relay.link
        self._loop.call(link.invoke, event, answer)
        found = self._wait(answer, timeout_s)
        return TimedOut(self.spec.timeout_s, link.memory_kb) if found is None else found

    def ping(self, timeout_s: float) -> Callable[[], bool]:
        """Ask the relay whether it runs (a container may be paused); what is returned waits for the answer."""
        pong: Future[None] = Future()
        self._loop.call(self.relay.link.ping, pong)

        def wait() -> bool:
            try:
                pong.result(timeout_s)
            except TimeoutError:
                return False
            return self.usable

        return wait

    def idles_within(self, timeout_s: float) -> bool:
        """Whether the runtime asks for the next event in time; if not, nothing happens to it."""
        return self._idle.wait(timeout_s) and self.usable

    def wait_idle(self, timeout_s: float) -> bool:
        """Whether the runtime asked for the next event in time; otherwise the environment is or gets killed."""
        if not self._idle.wait(timeout_s):
            self.kill()
        return self.usable

    def kill(self) -> None:
        """Kill the process tree, and wait until it is gone."""
        relay = self.relay
        self._loop.call(self.log_buffer.stop_pausing)
        self._loop.call(relay.link.kill)
        if not self.gone.wait(KILL_S):
            log.warning("the relay did not kill its tree in time", extra={"environment": self.id})
            self._loop.submit(relay.close(0.0))
            self.gone.wait(KILL_S)

    # For any thread

    def interrupt(self) -> None:
        """The worker stops: end the environment whatever it does, which frees the thread that waits for it."""
        self.interrupted = True
        self._kill_soon(
            self._attached
        )  # One that is about to start has no relay yet; whoever starts it looks whether the worker stops.

    def abort(self) -> None:
        """End what runs in the environment, without waiting: whoever waits for an answer learns that its process has gone."""
        attached = self._attached  # once, because a starter may attach one meanwhile
        self._aborted = attached is not None
        self._kill_soon(attached)

    def _kill_soon(self, attached: "_Attached | None") -> None:
        """Have the process tree killed, where there is one."""
        if attached is not None:
            self._loop.call(attached.relay.link.kill)

    def _wait(self, future: "Future[T]", timeout_s: float) -> T | None:
        try:
            found = future.result(timeout_s)
        except TimeoutError:
            self.kill()
            # The answer may have come in the moment of killing; AWS calls that a timeout too.
            return None
        except LinkBroken as error:
            raise EnvironmentBroken(str(error)) from error
        if self.interrupted and isinstance(found, Exited):
            raise Interrupted("interrupted: the worker stopped")
        return found


def deadline_ms(timeout_s: float) -> int:
    """Unix time in ms of ``timeout_s`` from now, as the runtime sees it."""
    return int((time.time() + timeout_s) * 1000)
