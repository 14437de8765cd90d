"""The one Celery task: from a message to the executor."""

import logging
from typing import Any

import msgspec
from celery import Celery

from workers.contract.broker import TASK
from workers.contract.messages import VersionMismatch, decode_batch
from workers.execution.executor import Executor

log = logging.getLogger(__name__)


def register(app: Celery, executor: Executor) -> None:
    """Add the task to the application."""

    @app.task(name=TASK, ignore_result=True, acks_late=True)  # type: ignore[untyped-decorator] # Celery has no types
    def run(body: Any) -> None:
        """Run a batch. One that can't be read is dropped: nobody has claimed it, so whoever published it sends it again."""
        try:
            batch = decode_batch(body)
        except (VersionMismatch, msgspec.DecodeError, TypeError) as error:
            log.error("message dropped: %s", error)
            return
        executor.run_batch(batch)
