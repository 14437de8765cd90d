"""A worker process: Celery's consumer in front, this mode's environments behind.

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
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning
from celery.platforms import EX_FAILURE
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from msgspec import DecodeError

from workers.contract import keys
from workers.contract.broker import Polls, create_celery, envelope, queue
from workers.contract.messages import (
    Batch,
    Prepare,
    Prepared,
    VersionMismatch,
    decode_batch,
    decode_prepare,
    encode,
)
from workers.environments.environment import Environment
from workers.environments.hot_reload import HotReload, identity
from workers.environments.keeper import EnvironmentKeeper
from workers.environments.leases import Leases
from workers.environments.starter import StartError
from workers.execution.attempts import Running
from workers.execution.batch_ownership import Holding
from workers.execution.claims import Claims
from workers.execution.executor import Executor
from workers.function_api import FunctionApi
from workers.function_logs import Shipper
from workers.intake.mailbox import Mailbox, Unreadable, parse_cancel, parse_move, take_rest
from workers.intake.tasks import register
from workers.intake.watchdog import Watchdog
from workers.link.loop_thread import LoopThread
from workers.modes import factory
from workers.redis_client import Store, Unavailable
from workers.settings import WorkerSettings
from workers.upkeep import Upkeep

#: Calls of functions to the Lambda API that are under way at a time; each waits for its answer in a thread.
_FUNCTION_API_THREADS: Final = 64
#: Between two looks whether a cancelled attempt has ended.
_CANCEL_S: Final = 0.2
#: One that is in neither list goes from one to the other, or has ended; the first takes no longer.
_ABOUT_S: Final = 1.0
#: Between two attempts to reach Redis.
_RETRY_S: Final = 0.25

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
        self._claims = claims = Claims(self._store, settings.name)
        self._running = running = Running()
        holding = Holding(self._store, settings.name)
        self._environments = EnvironmentKeeper(
            Leases(self._store, settings.name, settings.mode, channel=settings.channel),
            lambda lease, on_gone: Environment(lease, self._loop, on_gone),
            self._starter,
            budget=factory.budget(settings),
            keepalive_ms=0 if settings.mode == "docker" else settings.keepalive_ms,
            code_version=identity if self._starter.single_use else self._hot_reload.code_version,
        )
        self._executor = Executor(
            claims,
            self._environments,
            self._store,
            running,
            holding,
            worker=settings.name,
            init_timeout_s=settings.init_timeout_s,
            response_limit=settings.max_payload_bytes,
        )
        self._moved = ThreadPoolExecutor(settings.concurrency, "moved")
        self._mailbox = Mailbox(
            self._store,
            settings.name,
            {"move": self._take_moved, "prepare": self._take_prepare, "cancel": self._take_cancel},
            _die,
        )
        self._upkeep = Upkeep(settings, self._store, self._environments, claims, running, holding, _die)
        self._polls = Polls()
        self._watchdog = Watchdog(self._polls, self._store, settings.name, _die)
        self._drain: threading.Timer | None = None

    def run(self) -> int:
        """Consume until a signal; answers the exit status."""
        app = create_celery(self._settings.redis_url, self._settings.mode, self._polls)
        register(app, self._executor)
        signals.worker_ready.connect(self._on_ready, weak=False)
        signals.worker_shutting_down.connect(self._on_stopping, weak=False)
        try:
            return _consume(app, self._settings)
        finally:
            self.close()

    def _on_ready(self, **_: Any) -> None:
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

    def _on_stopping(self, **_: Any) -> None:
        self._watchdog.stop()
        self._upkeep.stop_taking()
        self._drain = threading.Timer(self._settings.drain_s, self._interrupt)
        self._drain.daemon = True
        self._drain.start()

    def _take_moved(self, body: bytes) -> None:
        """A batch that another worker sent here, with a lease on one of our environments. Beyond the slots, if they are full."""
        letter = parse_move(body)
        try:
            batch = decode_batch(letter.batch)
        except (VersionMismatch, DecodeError) as error:
            raise Unreadable(str(error)) from error
        environment = self._environments.accept_lease(letter.environment, letter.owner, letter.generation)
        self._moved.submit(self._run_moved, batch, environment)

    def _run_moved(self, batch: Batch, environment: Environment | None) -> None:
        try:
            self._executor.run_moved(batch, environment)
        except Exception:
            log.exception("a moved batch failed")

    def _take_prepare(self, body: bytes) -> None:
        """The dispatcher wants a function made ready; pulling an image takes its time, so it is nobody's slot."""
        try:
            request = decode_prepare(body)
        except (VersionMismatch, DecodeError) as error:
            raise Unreadable(str(error)) from error
        threading.Thread(target=self._prepare, args=(request,), name="prepare", daemon=True).start()

    def _prepare(self, request: Prepare) -> None:
        name = self._settings.name
        try:
            answer = Prepared(worker=name, image_id=self._starter.prepare(request.spec, request.code_url))
        except StartError as error:
            answer = Prepared(worker=name, code=error.state_code, reason=str(error))
        except Exception:
            log.exception("a function could not be made ready", extra={"function": request.spec.function})
            answer = Prepared(worker=name, code="InternalError", reason="An internal error occurred.")
        with suppress(*Unavailable), self._store.client.pipeline() as pipe:
            pipe.rpush(request.reply_to, encode(answer))
            pipe.pexpire(request.reply_to, keys.PREPARED_MS)
            pipe.execute()

    def _take_cancel(self, body: bytes) -> None:
        """An attempt here is to end, whatever comes of it."""
        threading.Thread(target=self._cancel, args=parse_cancel(body), name="cancel", daemon=True).start()

    def _cancel(self, request_id: str, attempt: int) -> None:
        """Again and again until it has ended: it may be about to begin, or to go on in another environment."""
        owner = f"{request_id}:{attempt}"
        environments = self._environments
        seen, give_up = False, time.monotonic() + _ABOUT_S
        while True:
            found = self._running.while_running(
                request_id, attempt, lambda environment: environments.abort(environment, owner)
            ) or environments.abort_starting(owner)
            if found and not seen:
                log.info("an event is cancelled while it runs", extra={"request_id": request_id})
            seen = seen or found
            if not found and (seen or time.monotonic() > give_up):
                return
            time.sleep(_CANCEL_S)

    def _publish_back(self) -> None:
        """Letters that came while this worker stopped: somebody else takes their batches."""
        for kind, body in take_rest(self._store, self._settings.name):
            if kind != "move":
                continue
            try:
                data = parse_move(body).batch
                name = queue(self._settings.mode, decode_batch(data).invocations[0].lane)
            except (Unreadable, VersionMismatch, DecodeError) as error:
                log.error("a letter that can't be read is dropped: %s", error)
                continue
            self._store.client.lpush(name, envelope(data, name))

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
            self._publish_back()
        self._moved.shutdown()
        self._environments.close()
        self._hot_reload.close()
        self._starter.close()
        self._api.close()
        self._shipper.stop()
        self._loop.stop()


class QuickConsumer(Consumer):  # type: ignore[misc] # Celery has no types
    """Celery's consumer, that tries a lost connection again several times a second.

    Celery's own waits for 2, 4, 6… up to 30 seconds between two attempts, and none of it can be set: after a Redis that was
    away for 20 s nothing would be served for another 10.
    """

    def ensure_connected(self, conn: Any) -> Any:
        """The connection, once it stands; a signal to stop ends the wait."""
        told = False

        def report(error: BaseException, _interval: float) -> None:
            nonlocal told
            if not told:
                log.warning("the queue can't be reached; trying on", extra={"error": str(error)})
            told = True

        conn.ensure_connection(
            report, interval_start=_RETRY_S, interval_step=0, interval_max=_RETRY_S, callback=maybe_shutdown
        )
        self.first_connection_attempt = False
        return conn

    # Celery's own write what they can't read into the log, and that may be somebody's payload.

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop a message whose body can't be read."""
        self._drop(message, exc)

    def on_invalid_task(self, _body: Any, message: Any, exc: Exception) -> None:
        """Drop a message of another content type."""
        self._drop(message, exc)

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        """Drop a message that is no task."""
        self._drop(message, TypeError())

    def on_unknown_task(self, _body: Any, message: Any, exc: Exception) -> None:
        """Drop a task that is not ours."""
        self._drop(message, exc)

    def _drop(self, message: Any, error: Exception) -> None:
        log.error("a message in the queue is none of ours; dropped", extra={"error": type(error).__name__})
        message.ack_log_error(log, self.connection_errors)


def _consume(app: Celery, settings: WorkerSettings) -> int:
    # Celery warns of root; here root is what gives every environment its own user (DESIGN section 8), and no message
    # is unpickled.
    warnings.filterwarnings("ignore", message="(?s).*superuser privileges")
    # That tasks go on when the connection is lost is what is wanted here, and set.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    worker = app.Worker(
        pool="threads",
        concurrency=settings.concurrency,
        hostname=settings.name,
        consumer_cls=QuickConsumer,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _die(error: BaseException) -> None:
    log.critical("the worker ends: %s", error)
    os._exit(EX_FAILURE)
