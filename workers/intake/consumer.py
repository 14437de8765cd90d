"""Celery's worker: the consumer that takes batches from the queues into the pool of threads."""

import logging
import warnings
from collections.abc import Callable
from typing import Any, Final

from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

#: Between two attempts to reach Redis.
_RETRY_S: Final = 0.25

log = logging.getLogger(__name__)


class QuickConsumer(Consumer):  # type: ignore[misc] # Celery has no types
    """Celery's consumer, that tries a lost connection again several times a second.

    Celery's own waits for 2, 4, 6… up to 30 seconds between two attempts, and none of it can be set: after a Redis that
    was away for 20 s nothing would be served for another 10.
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


def consume(
    app: Celery, worker: str, slots: int, *, on_ready: Callable[[], None], on_stopping: Callable[[], None]
) -> int:
    """Consume the application's queues in the calling thread until a signal; answers the exit status.

    ``on_ready`` is called once the queues are being consumed, ``on_stopping`` when no further message is taken.
    """

    def ready(**_: Any) -> None:
        on_ready()

    def stopping(**_: Any) -> None:
        on_stopping()

    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(stopping, weak=False)
    # Celery warns of a worker that runs as root, because a message may be a pickle that runs code. Here no message is
    # unpickled, and a worker is root in order to run each environment of mode local as a user of its own.
    warnings.filterwarnings("ignore", message="(?s).*superuser privileges")
    # That tasks go on when the connection is lost is what is wanted here, and set.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    celery_worker = app.Worker(
        pool="threads",
        concurrency=slots,
        hostname=worker,
        consumer_cls=QuickConsumer,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    celery_worker.start()
    return int(celery_worker.exitcode or 0)
