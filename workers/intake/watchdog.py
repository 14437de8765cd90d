"""Ends a worker that no longer takes messages, loudly, for its supervisor to start again.

Celery's consumer has stalled after a lost connection in many releases (celery issues 8030, 9054, 10205, 10302): the
process lives, its heartbeat goes on, and calls wait in vain. So the channel notes each poll (``Polls``), and a thread
looks once a second: a consumer that could have polled all along and has not for :data:`LIMIT_S` is stalled.

Time does not count in which it need not or can't poll: all slots taken, Redis away (Celery then connects again by
itself), the process stopped or the machine suspended. After each the consumer has the whole time again.

What runs in a stalled worker ends with it. kombu itself finds out about a dead connection only after 26 to 51 s.
"""

import logging
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from workers.contract import keys
from workers.contract.transport import Polls, clock
from workers.redis_client import Store, Unavailable
from workers.service_thread import ServiceThread

#: How long a consumer that could poll may go without a poll. One that is well polls every second.
LIMIT_S = 15.0
_EVERY_S: Final = 1.0
#: Two looks further apart mean that the process did not run in between.
_PAUSE_S: Final = 3.0
_FRAMES: Final = 4

log = logging.getLogger(__name__)


class Stalled(RuntimeError):
    """The consumer has stopped taking messages."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look saw; times are of ``transport.clock``."""

    at: float
    polled: float
    """When the queues were last asked."""
    full: bool = False
    redis: bool = True
    """Redis answers, and has had this worker's heartbeat."""
    stopping: bool = False


def missing_since(before: Look | None, since: float, look: Look) -> float:
    """Since when a poll could have been made and was not; ``since`` is what this function said of the look ``before``."""
    if before is None or look.full or look.stopping or not look.redis or look.at - before.at > _PAUSE_S:
        return look.at
    return max(since, look.polled)


def stalled(since: float, look: Look, limit_s: float) -> bool:
    """Whether polls are missing for longer than the limit."""
    return look.at - since > limit_s


class Watchdog:
    """Watches this process' consumer, which is in the main thread."""

    def __init__(self, polls: Polls, store: Store, worker: str, on_failure: Callable[[BaseException], None]) -> None:
        self._polls = polls
        self._store = store
        self._heartbeat = keys.worker(worker)
        self._before: Look | None = None
        self._since = 0.0
        self._thread = ServiceThread("watchdog", self.run_once, lambda: _EVERY_S, on_failure, reports=(Stalled,))

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more: a worker that stops takes no more messages."""
        self._thread.stop()

    def run_once(self) -> None:
        """Look once. Raises :class:`Stalled`."""
        look = self._take_look()
        self._since = since = missing_since(self._before, self._since, look)
        if stalled(since, look, LIMIT_S):
            raise Stalled(
                f"its consumer stalls: the queues were not asked for {look.at - since:.0f} s, "
                f"though slots are free and Redis answers; it is at {where()}"
            )
        self._before = look

    def _take_look(self) -> Look:
        redis = self._redis_answers()
        polled, full = self._polls.last, self._polls.full
        # The time comes last: when the process was stopped since the answers above, the look comes late and counts nothing.
        return Look(clock(), polled, full=full, redis=redis, stopping=self._thread.stopped)

    def _redis_answers(self) -> bool:
        # The heartbeat that upkeep writes, and not a PING: a Redis that answers may still take no writes, and a poll is one.
        try:
            return bool(self._store.client.exists(self._heartbeat))
        except Unavailable:
            return False


def where() -> str:
    """The innermost calls of the main thread, for the log."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    calls = reversed(traceback.extract_stack(frame, _FRAMES)) if frame else ()
    return " < ".join(f"{PurePath(call.filename).name}:{call.lineno} {call.name}" for call in calls) or "no place known"
