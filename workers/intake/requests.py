"""What others ask of this worker by its mailbox: to run a moved batch, to make a function ready, to cancel an attempt.

The handlers run in the mailbox's thread, so each hands its work to another thread and returns.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from msgspec import DecodeError

from workers.contract import keys
from workers.contract.broker import envelope, queue
from workers.contract.messages import (
    Batch,
    Mode,
    Prepare,
    Prepared,
    VersionMismatch,
    decode_batch,
    decode_prepare,
    encode,
)
from workers.environments.environment import Environment
from workers.environments.keeper import EnvironmentKeeper
from workers.environments.starter import Starter, StartError
from workers.execution.attempts import RunningAttempts
from workers.execution.executor import Executor
from workers.intake.mailbox import Unreadable, parse_cancel, parse_move, pop_unread_messages
from workers.redis_client import Store, Unavailable

#: Between two looks whether a cancelled attempt has ended.
_CANCEL_EVERY_S: Final = 0.2
#: An attempt that is neither starting nor running has ended, or is passing from the one to the other: that takes no longer.
_UNSEEN_S: Final = 1.0

log = logging.getLogger(__name__)


class MailboxRequests:
    """Handlers of the mailbox's messages."""

    def __init__(
        self,
        store: Store,
        starter: Starter,
        environments: EnvironmentKeeper,
        executor: Executor,
        attempts: RunningAttempts,
        *,
        worker: str,
        mode: Mode,
        slots: int,
    ) -> None:
        """``slots`` is how many moved batches run at a time; they come on top of those that the queues bring."""
        self._store = store
        self._starter = starter
        self._environments = environments
        self._executor = executor
        self._attempts = attempts
        self._worker = worker
        self._mode = mode
        self._moved = ThreadPoolExecutor(slots, "moved")

    @property
    def handlers(self) -> Mapping[str, Callable[[bytes], None]]:
        """The handler of each kind of message; all raise :class:`Unreadable`."""
        return {"move": self.accept_move, "prepare": self.accept_prepare, "cancel": self.accept_cancel}

    def accept_move(self, body: bytes) -> None:
        """Run a batch that another worker sent here together with a lease on one of this worker's environments."""
        move = parse_move(body)
        try:
            batch = decode_batch(move.batch)
        except (VersionMismatch, DecodeError) as error:
            raise Unreadable(str(error)) from error
        environment = self._environments.accept_lease(move.environment, move.owner, move.generation)
        self._moved.submit(self._run_moved_batch, batch, environment)

    def _run_moved_batch(self, batch: Batch, environment: Environment | None) -> None:
        try:
            self._executor.run_moved_batch(batch, environment)
        except Exception:
            log.exception("a moved batch failed")

    def accept_prepare(self, body: bytes) -> None:
        """Make a function ready for the dispatcher, in a thread of its own: pulling an image must take nobody's slot."""
        try:
            request = decode_prepare(body)
        except (VersionMismatch, DecodeError) as error:
            raise Unreadable(str(error)) from error
        threading.Thread(target=self._prepare_function, args=(request,), name="prepare", daemon=True).start()

    def _prepare_function(self, request: Prepare) -> None:
        try:
            answer = Prepared(worker=self._worker, image_id=self._starter.prepare(request.spec, request.code_url))
        except StartError as error:
            answer = Prepared(worker=self._worker, code=error.state_code, reason=str(error))
        except Exception:
            log.exception("a function could not be made ready", extra={"function": request.spec.function})
            answer = Prepared(worker=self._worker, code="InternalError", reason="An internal error occurred.")
        with suppress(*Unavailable), self._store.client.pipeline() as pipe:
            pipe.rpush(request.reply_to, encode(answer))
            pipe.pexpire(request.reply_to, keys.PREPARED_MS)
            pipe.execute()

    def accept_cancel(self, body: bytes) -> None:
        """End an attempt of an event that runs or is about to run here, whatever its outcome would be."""
        threading.Thread(target=self._cancel_attempt, args=parse_cancel(body), name="cancel", daemon=True).start()

    def _cancel_attempt(self, request_id: str, attempt: int) -> None:
        """Abort the attempt's environment again and again, because the attempt may go on in another environment."""
        owner = f"{request_id}:{attempt}"
        environments = self._environments
        seen, deadline = False, time.monotonic() + _UNSEEN_S
        while True:
            found = self._attempts.while_running(
                request_id, attempt, lambda environment: environments.abort(environment, owner)
            ) or environments.abort_starting(owner)
            if found and not seen:
                log.info("an event is cancelled while it runs", extra={"request_id": request_id})
            seen = seen or found
            if not found and (seen or time.monotonic() > deadline):
                return
            time.sleep(_CANCEL_EVERY_S)

    def publish_unread_batches(self) -> None:
        """Give the batches of messages that came while this worker stopped back to the queue, for any worker to run.

        Raises what Redis raises when it is gone (``redis_client.Unavailable``).
        """
        for kind, body in pop_unread_messages(self._store, self._worker):
            if kind != "move":
                continue
            try:
                data = parse_move(body).batch
                name = queue(self._mode, decode_batch(data).invocations[0].lane)
            except (Unreadable, VersionMismatch, DecodeError) as error:
                log.error("a message that can't be read is dropped: %s", error)
                continue
            self._store.client.lpush(name, envelope(data, name))

    def close(self) -> None:
        """Wait until the moved batches under way have run."""
        self._moved.shutdown()
