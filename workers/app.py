"""A worker process: Celery's consumer in front, this mode's environments behind. Here its parts are put together.

Celery's pool is ``threads``: a task only waits, for its environment, and all threads share the warm environments. Measured
on 2 cores with 16 slots, one no-op, and 16 callers of a task that blocks for 20 ms: threads 0.93 ms and 605 a second,
prefork 1.17 ms and 582, solo 1.12 ms and 43 (gevent would have to patch the links' thread away).

On SIGTERM Celery stops consuming and waits for its threads; the drain timer then kills the environments, which frees
them. A part that dies takes the process with it, loudly, for its supervisor to start again; so does a consumer that
stalls (``workers.intake.watchdog``).
"""

import gc
import logging
import os
import threading
from contextlib import suppress
from typing import Final

from workers.contract.broker import create_celery
from workers.contract.transport import Polls
from workers.environments.environment import Environment
from workers.environments.hot_reload import HotReload, identity
from workers.environments.keeper import EnvironmentKeeper
from workers.environments.leases import Leases
from workers.execution.attempts import RunningAttempts
from workers.execution.batch_ownership import BatchOwnership
from workers.execution.claims import Claims
from workers.execution.executor import Executor
from workers.function_api import FunctionApi
from workers.function_logs import Shipper
from workers.intake.consumer import consume
from workers.intake.mailbox import Mailbox
from workers.intake.requests import MailboxRequests
from workers.intake.tasks import register
from workers.intake.watchdog import Watchdog
from workers.link.loop_thread import LoopThread
from workers.modes import factory
from workers.redis_client import Store, Unavailable
from workers.settings import WorkerSettings
from workers.upkeep import Upkeep

#: Calls of functions to the Lambda API that are under way at a time; each waits for its answer in a thread.
_FUNCTION_API_THREADS: Final = 64
#: The exit status of a worker of which a part has died.
_FAILED: Final = 1

log = logging.getLogger(__name__)


class Worker:
    """All parts of one worker process."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._store = Store(settings.redis_url)
        self._loop = LoopThread(_die)
        self._loop.start()
        self._shipper = Shipper(self._store, _die)
        self._shipper.start()
        threads = max(_FUNCTION_API_THREADS, 2 * settings.concurrency)
        self._api = FunctionApi(settings.endpoint, self._store, self._loop, threads)
        self._starter, directory = factory.create(
            settings, self._loop, self._store, self._shipper, self._api.forward, _die
        )
        self._hot_reload = HotReload(directory)
        self._claims = Claims(self._store, settings.name)
        attempts = RunningAttempts()
        ownership = BatchOwnership(self._store, settings.name)
        self._environments = EnvironmentKeeper(
            Leases(self._store, settings.name, settings.mode, channel=settings.channel),
            lambda lease, on_gone: Environment(lease, self._loop, on_gone),
            self._starter,
            budget=factory.budget(settings),
            keepalive_ms=0 if settings.mode == "docker" else settings.keepalive_ms,
            code_version=identity if self._starter.single_use else self._hot_reload.code_version,
        )
        self._executor = Executor(
            self._claims,
            self._environments,
            self._store,
            attempts,
            ownership,
            worker=settings.name,
            init_timeout_s=settings.init_timeout_s,
            response_limit=settings.max_payload_bytes,
        )
        self._requests = MailboxRequests(
            self._store,
            self._starter,
            self._environments,
            self._executor,
            attempts,
            worker=settings.name,
            mode=settings.mode,
            slots=settings.concurrency,
        )
        self._mailbox = Mailbox(self._store, settings.name, self._requests.handlers, _die)
        self._upkeep = Upkeep(settings, self._store, self._environments, self._claims, attempts, ownership, _die)
        self._polls = Polls()
        self._watchdog = Watchdog(self._polls, self._store, settings.name, _die)
        self._drain: threading.Timer | None = None

    def run(self) -> int:
        """Consume until a signal; answers the exit status."""
        settings = self._settings
        app = create_celery(settings.redis_url, settings.mode, self._polls)
        register(app, self._executor)
        try:
            return consume(
                app, settings.name, settings.concurrency, on_ready=self._on_ready, on_stopping=self._on_stopping
            )
        finally:
            self.close()

    def _on_ready(self) -> None:
        self._mailbox.start()
        self._upkeep.start()
        self._starter.ready(self._environments.knows)
        # What is there by now stays: looking through it again and again for garbage takes 4 % of the processor under load.
        gc.collect()
        gc.freeze()
        self._watchdog.start()
        log.info(
            "worker ready",
            extra={"worker": self._settings.name, "mode": self._settings.mode, "slots": self._settings.concurrency},
        )

    def _on_stopping(self) -> None:
        self._watchdog.stop()
        self._upkeep.announce_stop()
        self._drain = threading.Timer(self._settings.drain_s, self._interrupt)
        self._drain.daemon = True
        self._drain.start()

    def _interrupt(self) -> None:
        self._environments.interrupt_all()
        self._claims.hurry()

    def close(self) -> None:
        """End everything that this process started."""
        if self._drain is not None:
            self._drain.cancel()
        self._watchdog.stop()
        self._upkeep.stop()
        self._mailbox.stop()
        with suppress(*Unavailable):
            self._requests.publish_unread_batches()
        self._requests.close()
        self._environments.close()
        self._hot_reload.close()
        self._starter.close()
        self._api.close()
        self._shipper.stop()
        self._loop.stop()


def _die(error: BaseException) -> None:
    log.critical("the worker ends: %s", error)
    os._exit(_FAILED)
