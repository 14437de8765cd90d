"""What a worker does beside its tasks: heartbeat, renewal of leases, sweeping, and coming back after Redis was lost.

Each is a function to be run once; :class:`Upkeep` runs them in a thread. A failure of Redis is waited out; any other
ends the process loudly, and its supervisor starts it again.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from workers.contract import keys
from workers.contract.scripts import notices
from workers.environments.keeper import EnvironmentKeeper
from workers.execution.attempts import RunningAttempts
from workers.execution.batch_ownership import BatchOwnership
from workers.execution.claims import Claims
from workers.redis_client import Store, Unavailable
from workers.service_thread import ServiceThread
from workers.settings import WorkerSettings

#: A worker without a heartbeat for this long is dead, and what it had claimed ends.
HEARTBEAT_MS: Final = 5_000
_BEAT_S: Final = 1.0
_LOST_PAUSE_S: Final = 0.2
_RENEW_S: Final = 5.0
_SWEEP_S: Final = 1.0
#: How long a run that is under way may take to end.
_STOP_S: Final = 10.0

log = logging.getLogger(__name__)


class Upkeep:
    """All upkeep of one worker, in one thread."""

    def __init__(
        self,
        settings: WorkerSettings,
        store: Store,
        environments: EnvironmentKeeper,
        claims: Claims,
        attempts: RunningAttempts,
        ownership: BatchOwnership,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._environments = environments
        self._claims = claims
        self._attempts = attempts
        self._ownership = ownership
        self._epoch = ""
        self._renew_due = 0.0
        self._sweep_due = 0.0
        self._lost = False
        self._notes_read = 0
        """Redis time (ms) of the newest note of a superseded revision that was read."""
        self.stopping = False
        """The worker takes no more invocations, and finishes those that run."""
        self._thread = ServiceThread(
            "upkeep",
            lambda: self.run_once(time.monotonic()),
            lambda: _LOST_PAUSE_S if self._lost else _BEAT_S,
            on_failure,
        )

    def start(self) -> None:
        """Beat once, so that the dispatcher knows this worker, then go on in the thread."""
        self.run_once(time.monotonic())
        self._thread.start()

    def run_once(self, now: float) -> None:
        """Do what is due at ``now``, in seconds of the monotonic clock. Waits out a Redis that is gone."""
        try:
            self.beat()
            self._ownership.renew()
            self._supersede()
            if now >= self._renew_due:
                self._renew_due = now + _RENEW_S
                self._environments.renew()
            if now >= self._sweep_due:
                self._sweep_due = now + _SWEEP_S
                self._environments.sweep(self._settings.keepalive_ms)
        except Unavailable as error:
            if not self._lost:
                log.warning("Redis is gone; waiting for it", extra={"error": str(error)})
            self._lost = True

    def beat(self) -> None:
        """Say that this worker lives. After a loss of Redis, which shows by a new epoch, register everything again."""
        settings = self._settings
        description: dict[str, str | int] = {
            "mode": settings.mode,
            "slots": settings.concurrency,
            "running": len(self._attempts),
            "stopping": int(self.stopping),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        epoch = self._store.run(
            notices.heartbeat(
                worker=settings.name, life_ms=HEARTBEAT_MS, new_epoch=secrets.token_hex(8), description=description
            )
        )
        self._environments.shared = self._store.client.zcard(keys.WORKERS) > 1
        if self._lost:
            log.info("Redis is back")
            self._lost = False
        if epoch == self._epoch:
            return
        if self._epoch:
            log.warning("Redis was lost: registering again", extra={"attempts": len(self._attempts)})
            self._attempts.rejoin(self._claims)
            self._environments.renew()
        self._epoch = epoch

    def _supersede(self) -> None:
        """Read the notes of superseded revisions since the last time; one that is read twice does no harm."""
        notes = self._store.client.zrange(
            keys.SUPERSEDED, f"({self._notes_read}", "+inf", byscore=True, withscores=True
        )
        for note, score in cast("list[tuple[bytes, float]]", notes):
            self._notes_read = max(self._notes_read, int(score))
            self._environments.supersede(note.decode())

    def announce_stop(self) -> None:
        """Say at once that this worker takes no more invocations."""
        self.stopping = True
        threading.Thread(target=self._last_beat, name="last beat", daemon=True).start()

    def _last_beat(self) -> None:
        with suppress(*Unavailable):
            self.beat()

    def stop(self) -> None:
        """Stop upkeep, and say that this worker is gone."""
        self._thread.stop(_STOP_S)
        try:
            self._store.client.delete(keys.worker(self._settings.name))
            self._store.client.zrem(keys.WORKERS, self._settings.name)
        except Unavailable:
            log.info("Redis is gone: the heartbeat ends by itself")
