"""When an attempt starts to count, and when it is over: the worker's calls of ``claim``, ``finish`` and ``rejoin``."""

import logging
import math
import threading
import time
from typing import Final

from workers.contract import keys
from workers.contract.messages import START_MS, FunctionSpec, Invocation, Outcome, encode
from workers.redis_client import Step, Store, Unavailable

#: How long a record and an unread reply outlive the end of their attempt.
AFTERLIFE_MS: Final = 60_000
#: A dispatcher that waits for a reply outlives a Redis restart; after this long nobody waits any more.
_PATIENCE_S: Final = 60.0
_PAUSE_S: Final = 0.1

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

    def hold(self, invocation: Invocation, environment: str) -> str:
        """Say that an environment is started for it: ``held``, or why it is not ours (``void``, ``late``, ``taken``)."""
        return self._claim("hold", invocation, environment, START_MS)

    def run(self, spec: FunctionSpec, invocation: Invocation, environment: str) -> str:
        """From here on the attempt counts: ``run``, or why not (``void``, ``late``, ``taken``, ``throttled``)."""
        return self._claim("run", invocation, environment, spec.timeout_s * 1000 + AFTERLIFE_MS)

    def _claim(self, word: str, invocation: Invocation, environment: str, life_ms: int) -> str:
        # Whether a claim without an answer was granted is known only to Redis: wait for it, and ask again.
        step = self._claim_step(word, invocation, environment, life_ms)
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._store.word(*step)
            except Unavailable:
                if time.monotonic() > give_up or self._hurry.wait(_PAUSE_S):
                    raise

    def _claim_step(self, word: str, invocation: Invocation, environment: str, life_ms: int) -> Step:
        return (
            "claim",
            [keys.invocation(invocation.request_id), invocation.counted_in],
            [
                word, invocation.attempt, self._worker, environment, invocation.claim_by_ms, life_ms,
                invocation.limit, member(invocation), life_ms,
            ],
        )  # fmt: skip

    def finish(self, spec: FunctionSpec, invocation: Invocation, outcome: Outcome) -> None:
        """Hand the outcome over, however long Redis is gone while somebody may still wait for it: a caller for a while, the
        ledger for ever.
        """
        step = self._finish_step(spec, invocation, outcome)
        give_up = time.monotonic() + (math.inf if invocation.reply_to == keys.OUTCOMES else _PATIENCE_S)
        while True:
            try:
                self._store.run(*step)
            except Unavailable as error:
                if time.monotonic() > give_up or self._hurry.wait(_PAUSE_S):
                    log.error(
                        "outcome lost: Redis did not come back",
                        extra={"request_id": invocation.request_id, "error": str(error)},
                    )
                    return
            else:
                return

    def _finish_step(self, spec: FunctionSpec, invocation: Invocation, outcome: Outcome) -> Step:
        names = [
            keys.invocation(invocation.request_id),
            keys.concurrency(spec.account, spec.region, spec.function),
            keys.concurrency(spec.account, spec.region),
            invocation.reply_to,
            invocation.payload_key or keys.payload(invocation.request_id),
        ]
        kind = "stream" if invocation.reply_to == keys.OUTCOMES else "list"
        return "finish", names, [invocation.attempt, member(invocation), encode(outcome), AFTERLIFE_MS, kind]

    def finish_and_run(
        self, spec: FunctionSpec, ended: Invocation, outcome: Outcome, following: Invocation, environment: str
    ) -> str:
        """:meth:`finish` the one and :meth:`run` the next on the same environment, in one round trip."""
        life_ms = spec.timeout_s * 1000 + AFTERLIFE_MS
        try:
            _, word = self._store.run_both(
                self._finish_step(spec, ended, outcome), self._claim_step("run", following, environment, life_ms)
            )
        except Unavailable:
            # Both may be repeated.
            self.finish(spec, ended, outcome)
            return self.run(spec, following, environment)
        return str(word.decode())

    def rejoin(self, spec: FunctionSpec, invocation: Invocation, environment: str, left_ms: int) -> str:
        """Record a running attempt again after Redis was lost: ``rejoined`` or ``known``."""
        return self._store.word(
            "rejoin",
            [
                keys.invocation(invocation.request_id),
                invocation.counted_in or keys.concurrency(spec.account, spec.region),
            ],
            [invocation.attempt, self._worker, environment, member(invocation), left_ms],
        )


def member(invocation: Invocation) -> str:
    """An attempt's name in a concurrency set."""
    return f"{invocation.request_id}:{invocation.attempt}"
