"""The synchronous path: publish an invocation, and wait for its outcome on this dispatcher's own reply list.

Two tasks run beside the calls: one reads replies; the other inspects the fleet and then rescues calls that have waited for a
while, which know ends other than an outcome: nobody claimed the call in time (it is voided, and answered with 429), or the
worker that had claimed it died (5xx). A message that was lost before anybody claimed it, with Redis or with a worker, is
published again as a new attempt, after the old one was voided.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from redis import RedisError

from dispatcher.calls.admission import ACCOUNT_EXCEEDED, Slot
from dispatcher.calls.fleet import Fleet
from dispatcher.catalog.resolving import Target
from dispatcher.loops import cancel
from dispatcher.redis_client import connect, result_of, run_call
from dispatcher.wire.errors import AwsError
from workers.contract import keys
from workers.contract.broker import envelope, queue
from workers.contract.messages import (
    INLINE_PAYLOAD_BYTES,
    START_MS,
    VERSION,
    Invocation,
    Outcome,
    VersionMismatch,
    decode_outcome,
    encode_batch,
)
from workers.contract.scripts import attempts, claim

_TICK_S: Final = 0.5
_RETRY_S: Final = 0.2
#: A call that waits for less than this needs no rescue.
_YOUNG_S: Final = 1.0
#: How much longer than its time in the queue a call waits for a Redis that is gone.
_GRACE_S: Final = 2.0
#: Longest that a claimed call may take beside its function's timeout: two initialisations and the start of a container.
_START_SLACK_MS: Final = 60_000
_AFTERLIFE_MS: Final = 60_000
#: A reply that is not read this long after its call was seen to be done is lost.
_UNREAD_S: Final = 1.5
#: So many inspections in a row, half a second apart, must miss a message before it counts as lost.
_MISSED: Final = 3
_MANY_REPLIES: Final = 100

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Call:
    """A call that waits for its outcome."""

    invocation: Invocation
    target: Target
    slot: Slot
    mode: str
    code_url: str
    future: "asyncio.Future[Outcome]"
    accepted_at: float
    """Monotonic time at which the call came in, in seconds."""
    published_at: float = 0.0
    """Monotonic time at which the newest attempt was published, in seconds."""
    seen_running: bool = False
    """Whether the call was once observed running: from then on it is never answered with 429, as if nothing had run."""
    missed: int = 0
    """How many inspections in a row found the call neither claimed nor in the queue."""
    done_since: float = 0.0
    """Monotonic time at which the call was first seen to have ended without a reply, in seconds; 0 before."""


class SyncCalls:
    """One dispatcher's synchronous calls: published to the workers of ``fleet``, answered when their outcomes come back.

    ``queue_wait_s``: how long a call may wait for a worker to claim it.
    """

    def __init__(self, redis_url: str, fleet: Fleet, *, queue_wait_s: float) -> None:
        self.name = secrets.token_hex(8)
        self._fleet = fleet
        self._queue_wait_s = queue_wait_s
        self._redis = connect(redis_url)
        self._reader = connect(redis_url)
        self._inspector = connect(redis_url)
        self._reply_to = keys.replies(self.name)
        self._calls: dict[str, _Call] = {}
        self._maybe_published: list[_Call] = []
        """Calls that were refused since Redis did not answer, and may be published all the same."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Inspect the fleet once, then go on in the background."""
        with contextlib.suppress(RedisError, OSError):
            await self._fleet.inspect()
        self._tasks = [
            asyncio.create_task(self._repeat(self._read_replies, 0.0), name="replies"),
            asyncio.create_task(self._repeat(self._inspect_and_rescue, _TICK_S), name="fleet and calls"),
        ]

    async def close(self) -> None:
        """Stop; calls that still wait are answered as interrupted."""
        await cancel(*self._tasks)
        for call in list(self._calls.values()):
            _fail(call, AwsError("ServiceException", "The server is stopping.", status=503))
        for client in (self._redis, self._reader, self._inspector):
            await client.aclose()

    @property
    def waiting(self) -> int:
        """How many calls wait for an outcome."""
        return len(self._calls)

    # Publishing

    async def invoke(self, target: Target, slot: Slot, mode: str, invocation: Invocation, code_url: str) -> Outcome:
        """Run a function and answer how that ended.

        ``invocation`` comes without ``claim_by_ms`` and ``reply_to``, which are set here. Raises
        ``TooManyRequestsException`` when the slot has no room or no worker began in time, and ``ServiceException`` when no
        worker serves the mode, Redis is gone, or the worker died.
        """
        if mode not in self._fleet.modes:
            raise _unavailable(f"No living worker serves mode {mode}.")
        if self._fleet.memory_low:
            raise _unavailable("The queue's memory is nearly used up.")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        call = _Call(invocation, target, slot, mode, code_url, future, time.monotonic())
        self._calls[invocation.request_id] = call
        try:
            await self._publish(call)
            return await future
        finally:
            self._calls.pop(invocation.request_id, None)

    async def _publish(self, call: _Call) -> None:
        invocation, spec = call.invocation, call.target.spec
        wait_ms = max(int((self._queue_wait_s - (time.monotonic() - call.accepted_at)) * 1000), 0)
        payload = invocation.payload
        separate = len(payload) > INLINE_PAYLOAD_BYTES
        sent = Invocation(
            request_id=invocation.request_id,
            attempt=invocation.attempt,
            lane=invocation.lane,
            invoked_arn=invocation.invoked_arn,
            payload=b"" if separate else payload,
            payload_key=keys.payload(invocation.request_id) if separate else "",
            counted_in=call.slot.key,
            claim_by_ms=int(time.time() * 1000) + wait_ms,
            reply_to=self._reply_to,
            trace_id=invocation.trace_id,
            client_context=invocation.client_context,
            cognito_identity=invocation.cognito_identity,
        )
        call.invocation = msgspec.structs.replace(sent, payload=payload)
        call.published_at = time.monotonic()
        name = queue(call.mode, invocation.lane)
        message = envelope(encode_batch(VERSION, call.target.spec_raw, call.code_url, [sent]), name)
        enqueue = attempts.enqueue(
            sent,
            limit=call.slot.limit,
            place_ms=wait_ms + spec.timeout_s * 1000 + _START_SLACK_MS,
            queue=name,
            message=message,
            payload=payload if separate else b"",
            payload_ms=wait_ms + _AFTERLIFE_MS + START_MS + spec.timeout_s * 1000,
        )
        try:
            word = await run_call(self._redis, enqueue)
        except (RedisError, OSError) as error:
            log.warning("call refused: Redis is gone", extra={"error": str(error)})
            self._maybe_published.append(call)
            raise _unavailable("The queue can't be reached.") from error
        if word == "throttled":
            raise _throttled(call.slot.reason)

    # Replies

    async def _read_replies(self) -> None:
        found = await result_of(self._reader.blpop([self._reply_to], timeout=1))
        if found is None:
            return
        self._resolve_call(found[1])
        # Under load the others come along in one more round trip.
        if len(self._calls) > 1:
            for data in await result_of(self._reader.lpop(self._reply_to, _MANY_REPLIES)) or ():
                self._resolve_call(data)

    def _resolve_call(self, data: bytes) -> None:
        try:
            outcome = decode_outcome(data)
        except (VersionMismatch, ValueError) as error:
            log.error("a reply can't be read: %s", error)
            return
        call = self._calls.get(outcome.request_id)
        if call is not None and not call.future.done():
            call.future.set_result(outcome)

    # Rescue

    async def _repeat(self, step: Callable[[], Awaitable[None]], pause_s: float) -> None:
        """Run ``step`` again and again; while Redis is gone, five times a second."""
        while True:
            try:
                await step()
                pause = pause_s
            except (RedisError, OSError) as error:
                self._fleet.mark_unreachable(error)
                self._fail_hopeless_calls(time.monotonic())
                pause = _RETRY_S
            if pause:
                await asyncio.sleep(pause)

    async def _inspect_and_rescue(self) -> None:
        # What became of a call is judged by an inspection made just before: whether its worker lives, and Redis was lost.
        await self._fleet.inspect()
        await self._void_maybe_published()
        await self._rescue_calls()

    def _fail_hopeless_calls(self, now: float) -> None:
        """Redis is gone: calls that run are answered when it is back, but not later than they could have lasted.

        A call that was not seen running may be waiting still; it is voided when Redis is back.
        """
        for call in self._calls.values():
            waited_s = now - call.accepted_at
            if not call.seen_running and waited_s > self._queue_wait_s + _GRACE_S and not call.future.done():
                self._maybe_published.append(call)
                _fail(call, _unavailable("The queue can't be reached."))
            if waited_s > self._queue_wait_s + call.target.spec.timeout_s + _START_SLACK_MS / 1000:
                _fail(call, _unavailable("The queue can't be reached."))

    async def _void_maybe_published(self) -> None:
        """Redis answers again: what it took without saying so must not begin, if it has not yet."""
        while self._maybe_published:
            call = self._maybe_published[-1]
            if await self._void_attempt(call):
                await self._forget_attempt(call)
            self._maybe_published.pop()

    async def _rescue_calls(self) -> None:
        now = time.monotonic()
        old = [call for call in self._calls.values() if now - call.accepted_at > _YOUNG_S and not call.future.done()]
        if not old:
            return
        # Judged as of before the records are read: a worker that records again what it runs may do so in between.
        recovering = self._fleet.recovering
        async with self._inspector.pipeline(transaction=False) as pipe:
            for call in old:
                pipe.hmget(keys.invocation(call.invocation.request_id), "state", "attempt", "worker")
                pipe.llen(queue(call.mode, "sync"))
            found = await pipe.execute()
        for call, (state, attempt, worker), queued in zip(old, found[::2], found[1::2], strict=True):
            # The record may be of an attempt that was voided before.
            current = attempt is not None and int(attempt) == call.invocation.attempt
            word = state.decode() if current and state else ""
            # A message that is in no queue is with a worker, which claims it in a moment; or it went with one that died.
            call.missed = 0 if word or queued else call.missed + 1
            await self._rescue_call(call, now, word, (worker or b"").decode(), recovering=recovering)

    async def _rescue_call(self, call: _Call, now: float, state: str, worker: str, *, recovering: bool) -> None:
        """End a call, or publish it again, if no worker will answer it. ``state`` and ``worker`` are its record's.

        ``recovering``: Redis had just been lost when the record was read.
        """
        call.seen_running = call.seen_running or state in ("run", "done")
        older_than_loss = call.published_at < self._fleet.redis_lost_at
        if state in ("run", "reserved"):
            if not await self._fleet.is_alive(worker):
                await self._abandon(call, _unavailable("The worker that ran the invocation died.", status=500))
        elif state == "done":
            # The reply is about to be read, or went to a connection that was lost.
            call.done_since = call.done_since or now
            if now - call.done_since > _UNREAD_S:
                await self._abandon(call, _unavailable("The outcome was lost with a connection to Redis.", status=500))
        elif call.seen_running:
            # Its worker is about to record it again, or to answer; it must be neither refused nor run a second time.
            if not (older_than_loss and recovering):
                await self._abandon(call, _unavailable("The invocation's record is gone.", status=500))
        else:
            lost = older_than_loss and not recovering
            overdue = now - call.accepted_at > self._queue_wait_s
            if (state == "void" or lost or overdue or call.missed >= _MISSED) and await self._void_attempt(call):
                if overdue:
                    await self._abandon(call, _throttled(ACCOUNT_EXCEEDED))
                else:
                    await self._publish_again(call)

    async def _publish_again(self, call: _Call) -> None:
        """Publish a call whose message is lost as a new attempt; the old one was voided, so whoever still has it can't run it."""
        await self._forget_attempt(call)
        log.info("an unclaimed call is published again", extra={"request_id": call.invocation.request_id})
        call.missed = 0
        call.invocation = msgspec.structs.replace(call.invocation, attempt=call.invocation.attempt + 1)
        try:
            await self._publish(call)
        except AwsError as error:
            _fail(call, error)

    async def _void_attempt(self, call: _Call) -> bool:
        """Whether the call's attempt can't begin any more."""
        request_id, attempt = call.invocation.request_id, call.invocation.attempt
        void = claim.void(request_id=request_id, attempt=attempt, asker=self.name, life_ms=_AFTERLIFE_MS)
        return await run_call(self._redis, void) == "void"

    async def _abandon(self, call: _Call, error: AwsError) -> None:
        _fail(call, error)
        await self._forget_attempt(call)

    async def _forget_attempt(self, call: _Call) -> None:
        """Give back what the attempt takes in Redis: its place in the slot and its payload."""
        spec = call.target.spec
        forget = attempts.forget(
            account=spec.account,
            region=spec.region,
            function=spec.function,
            request_id=call.invocation.request_id,
            attempt=call.invocation.attempt,
            payload_key=keys.payload(call.invocation.request_id),
            life_ms=_AFTERLIFE_MS,
        )
        await run_call(self._redis, forget)


def _fail(call: _Call, error: AwsError) -> None:
    if not call.future.done():
        call.future.set_exception(error)


def _throttled(reason: str) -> AwsError:
    return AwsError("TooManyRequestsException", "Rate Exceeded.", Reason=reason, retryAfterSeconds=1)


def _unavailable(message: str, status: int = 503) -> AwsError:
    return AwsError("ServiceException", message, status=status)
