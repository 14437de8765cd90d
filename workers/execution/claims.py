"""When an attempt starts to count, and when it is over: the worker's calls of ``claim``, ``finish`` and ``rejoin``."""

import logging
import math
import threading
import time
from typing import Final, TypeVar

from workers.contract import keys
from workers.contract.messages import START_MS, FunctionSpec, Invocation, Outcome, encode
from workers.contract.scripts import attempts, claim
from workers.contract.scripts.call import Call
from workers.redis_client import Store, Unavailable

#: How long a record and an unread reply outlive the end of their attempt.
AFTERLIFE_MS: Final = 60_000
#: A dispatcher that waits for a reply outlives a Redis restart; after this long nobody waits any more.
_PATIENCE_S: Final = 60.0
_PAUSE_S: Final = 0.1

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)


class Claims:
    """Claims of one worker."""

    def __init__(self, store: Store, worker: str) -> None:
        self._store = store
        self._worker = worker
        self._hurry = threading.Event()

    def hurry(self) -> None:
        """The worker must end: from now on wait for Redis no longer."""
        self._hurry.set()

    def reserve(self, invocation: Invocation, environment: str) -> claim.Reserve:
        """Say that an environment is started for it: ``reserved``, or why it is not ours (``void``, ``late``, ``taken``)."""
        return self._ask(claim.reserve(invocation, worker=self._worker, environment=environment, life_ms=START_MS))

    def run(self, spec: FunctionSpec, invocation: Invocation, environment: str) -> claim.Run:
        """From here on the attempt counts: ``run``, or why not (``void``, ``late``, ``taken``, ``throttled``)."""
        return self._ask(self._run_call(spec, invocation, environment))

    def _run_call(self, spec: FunctionSpec, invocation: Invocation, environment: str) -> Call[claim.Run]:
        life_ms = spec.timeout_s * 1000 + AFTERLIFE_MS
        return claim.run(invocation, worker=self._worker, environment=environment, life_ms=life_ms)

    def _ask(self, call: Call[Answer]) -> Answer:
        # Whether a claim without an answer was granted is known only to Redis: wait for it, and ask again.
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._store.run(call)
            except Unavailable:
                if time.monotonic() > deadline or self._hurry.wait(_PAUSE_S):
                    raise

    def finish(self, spec: FunctionSpec, invocation: Invocation, outcome: Outcome) -> None:
        """Hand the outcome over, however long Redis is gone while somebody may still wait for it: a caller for a while, the
        ledger for ever.
        """
        call = attempts.finish(spec, invocation, encode(outcome), life_ms=AFTERLIFE_MS)
        deadline = time.monotonic() + (math.inf if invocation.reply_to == keys.OUTCOMES else _PATIENCE_S)
        while True:
            try:
                self._store.run(call)
            except Unavailable as error:
                if time.monotonic() > deadline or self._hurry.wait(_PAUSE_S):
                    log.error(
                        "outcome lost: Redis did not come back",
                        extra={"request_id": invocation.request_id, "error": str(error)},
                    )
                    return
            else:
                return

    def finish_and_run(
        self, spec: FunctionSpec, ended: Invocation, outcome: Outcome, following: Invocation, environment: str
    ) -> claim.Run:
        """:meth:`finish` the one and :meth:`run` the next on the same environment, in one round trip."""
        try:
            _, word = self._store.run_both(
                attempts.finish(spec, ended, encode(outcome), life_ms=AFTERLIFE_MS),
                self._run_call(spec, following, environment),
            )
        except Unavailable:
            # Both may be repeated.
            self.finish(spec, ended, outcome)
            return self.run(spec, following, environment)
        return word

    def rejoin(self, spec: FunctionSpec, invocation: Invocation, environment: str, left_ms: int) -> attempts.Rejoin:
        """Record a running attempt again after Redis was lost: ``rejoined`` or ``known``."""
        return self._store.run(
            attempts.rejoin(spec, invocation, worker=self._worker, environment=environment, left_ms=left_ms)
        )


def member(invocation: Invocation) -> str:
    """An attempt's name in a concurrency set."""
    return keys.member(invocation.request_id, invocation.attempt)
