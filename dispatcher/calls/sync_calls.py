"""The synchronous path: publish an invocation, and wait for its outcome on this dispatcher's own reply list.

Three upkeep tasks beside it: one reads replies, one keeps the list of living workers, one looks after calls that
wait for long. The last one knows ends other than an outcome: nobody claimed the call in time (it is voided, 429), or the
worker that had claimed it died (5xx). A message that was lost before anybody claimed it, with Redis or with a worker, is
published again as a new attempt, after the old one was voided.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from redis import RedisError

from dispatcher.calls.admission import ACCOUNT_EXCEEDED, Slot
from dispatcher.catalog.resolving import Target
from dispatcher.loops import cancel
from dispatcher.redis_client import connect, result_of, run_script
from dispatcher.wire.errors import AwsError
from workers.contract import keys
from workers.contract.broker import envelope, queue
from workers.contract.messages import (
    INLINE_PAYLOAD_BYTES,
    START_MS,
    VERSION,
    FunctionSpec,
    Invocation,
    Outcome,
    Prepare,
    Prepared,
    VersionMismatch,
    decode_outcome,
    decode_prepared,
    encode,
    encode_batch,
)

_TICK_S: Final = 0.5
#: How much longer than its time in the queue a call waits for a Redis that is gone.
_GRACE_S: Final = 2.0
#: Longest that a claimed call may take beside its function's timeout: two initialisations and the start of a container.
_START_SLACK_MS: Final = 60_000
_AFTERLIFE_MS: Final = 60_000
#: A worker's heartbeat lasts 5 s; in this time after a loss of Redis every living one has registered again.
_REJOIN_S: Final = 3.0
#: A reply that is not read this long after its call was seen to be done is lost.
_UNREAD_S: Final = 1.5
#: So many looks in a row, half a second apart, must miss a message before it counts as lost.
_MISSED: Final = 3
_MANY_REPLIES: Final = 100
#: Part of Redis' memory over which synchronous calls are refused.
_FULL: Final = 0.8

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
    published: float
    """Monotonic."""
    begun: bool = False
    """It was seen to run: whatever becomes of it, it is not refused as if it had not."""
    missed: int = 0
    """How often in a row it was neither claimed nor in the queue."""
    done: float = 0.0
    """Monotonic time at which it was first seen to have ended without a reply."""


class Queue:
    """One dispatcher's way to the workers and back."""

    def __init__(self, redis_url: str, *, queue_wait_s: float, function_secret: bytes) -> None:
        self.name = secrets.token_hex(8)
        self._queue_wait_s = queue_wait_s
        self._secret = function_secret
        self._redis = connect(redis_url)
        self._reader = connect(redis_url)
        self._watcher = connect(redis_url)
        self._reply_to = keys.replies(self.name)
        self._calls: dict[str, _Call] = {}
        self._workers: dict[str, dict[str, str]] = {}
        self._modes: frozenset[str] = frozenset()
        self._full = False
        """Redis has little memory left: what is running needs it to end."""
        self._epoch: str | None = None
        self._lost_at = 0.0
        """Monotonic time at which Redis was last found to have been lost."""
        self._unsure: list[_Call] = []
        """Calls that were refused since Redis did not answer, and may be published all the same."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Look for workers once, then go on in the background."""
        with contextlib.suppress(RedisError, OSError):
            await self._look()
        self._tasks = [
            asyncio.create_task(self._forever(self._read_replies, 0.0), name="replies"),
            asyncio.create_task(self._forever(self._tick, _TICK_S), name="workers"),
        ]

    async def close(self) -> None:
        """Stop; calls that still wait are answered as interrupted."""
        await cancel(*self._tasks)
        for call in list(self._calls.values()):
            _fail(call, AwsError("ServiceException", "The server is stopping.", status=503))
        await self._redis.aclose()
        await self._reader.aclose()
        await self._watcher.aclose()

    # Calls

    @property
    def modes(self) -> frozenset[str]:
        """The modes that a living worker serves."""
        return self._modes

    @property
    def workers(self) -> dict[str, dict[str, str]]:
        """Living workers and what they say of themselves."""
        return self._workers

    @property
    def full(self) -> bool:
        """Whether Redis has so little memory left that nothing new should begin."""
        return self._full

    @property
    def recovering(self) -> bool:
        """Redis was lost a moment ago: workers are about to record again what they run."""
        return time.monotonic() - self._lost_at < _REJOIN_S

    @property
    def waiting(self) -> int:
        """Calls that wait for an outcome."""
        return len(self._calls)

    async def call(self, target: Target, slot: Slot, mode: str, invocation: Invocation, code_url: str) -> Outcome:
        """Run it and answer how it ended. ``invocation`` comes without ``claim_by_ms`` and ``reply_to``, which are set here.

        Raises ``TooManyRequestsException`` when the slot has no room or no worker began in time, and ``ServiceException``
        when no worker serves the mode, Redis is gone, or the worker died.
        """
        if mode not in self._modes:
            raise _unavailable(f"No living worker serves mode {mode}.")
        if self._full:
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
        wait_ms = max(int((self._queue_wait_s - (time.monotonic() - call.published)) * 1000), 0)
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
        name = queue(call.mode, invocation.lane)
        message = envelope(encode_batch(VERSION, call.target.spec_raw, call.code_url, [sent]), name)
        held_ms = wait_ms + spec.timeout_s * 1000 + _START_SLACK_MS
        try:
            word = await self._run(
                "enqueue",
                [call.slot.key, name, keys.payload(invocation.request_id)],
                [
                    call.slot.limit, _member(sent), held_ms, message,
                    payload if separate else b"", wait_ms + _AFTERLIFE_MS + START_MS + spec.timeout_s * 1000,
                ],
            )  # fmt: skip
        except (RedisError, OSError) as error:
            log.warning("call refused: Redis is gone", extra={"error": str(error)})
            self._unsure.append(call)
            raise _unavailable("The queue can't be reached.") from error
        if word == b"throttled":
            raise _throttled(call.slot.reason)

    async def _run(self, name: str, names: Sequence[str], arguments: Sequence[Any]) -> Any:
        return await run_script(self._redis, name, names, arguments)

    # Replies

    async def _read_replies(self) -> None:
        found = await result_of(self._reader.blpop([self._reply_to], timeout=1))
        if found is None:
            return
        self._resolve(found[1])
        # Under load the others come along in one more round trip.
        if len(self._calls) > 1:
            for data in await result_of(self._reader.lpop(self._reply_to, _MANY_REPLIES)) or ():
                self._resolve(data)

    def _resolve(self, data: bytes) -> None:
        try:
            outcome = decode_outcome(data)
        except (VersionMismatch, ValueError) as error:
            log.error("a reply can't be read: %s", error)
            return
        call = self._calls.get(outcome.request_id)
        if call is not None and not call.future.done():
            call.future.set_result(outcome)

    # Upkeep

    async def _forever(self, step: Any, pause_s: float) -> None:
        """Run ``step`` again and again; while Redis is gone, five times a second."""
        while True:
            try:
                await step()
                pause = pause_s
            except (RedisError, OSError) as error:
                if self._modes:
                    log.warning("Redis is gone; waiting for it", extra={"error": type(error).__name__})
                self._modes = frozenset()
                self._end_hopeless(time.monotonic())
                pause = 0.2
            if pause:
                await asyncio.sleep(pause)

    async def _tick(self) -> None:
        await self._look()
        await self._void_unsure()
        await self._look_after_calls()

    def _end_hopeless(self, now: float) -> None:
        """Redis is gone: calls that run are answered when it is back, but not later than they could have lasted.

        One that was not seen to run may be waiting still; it is voided when Redis is back.
        """
        for call in self._calls.values():
            if not call.begun and now - call.published > self._queue_wait_s + _GRACE_S and not call.future.done():
                self._unsure.append(call)
                _fail(call, _unavailable("The queue can't be reached."))
            if now - call.published > self._queue_wait_s + call.target.spec.timeout_s + _START_SLACK_MS / 1000:
                _fail(call, _unavailable("The queue can't be reached."))

    async def _void_unsure(self) -> None:
        """Redis answers again: what it took without saying so must not begin, if it has not yet."""
        while self._unsure:
            call = self._unsure[-1]
            if await self._void(call):
                await self._forget(call)
            self._unsure.pop()

    async def _look(self) -> None:
        """Who lives, and whether Redis is still the one it was."""
        async with self._watcher.pipeline(transaction=False) as pipe:
            pipe.zrange(keys.WORKERS, 0, -1)
            pipe.get(keys.EPOCH)
            pipe.info("memory")
            pipe.get(keys.SECRET)
            names, epoch, memory, secret = await pipe.execute()
            for name in names:
                pipe.hgetall(keys.worker(name.decode()))
            found = await pipe.execute()
        self._workers = {
            name.decode(): {field.decode(): value.decode() for field, value in fields.items()}
            for name, fields in zip(names, found, strict=True)
            if fields
        }
        self._full = 0 < memory["maxmemory"] * _FULL < memory["used_memory"]
        # One that is stopping finishes what it runs, and takes nothing more.
        self._modes = frozenset(worker["mode"] for worker in self._workers.values() if worker.get("stopping") != "1")
        word = epoch.decode() if epoch else None
        if self._epoch is not None and word != self._epoch:
            # Without an epoch it is empty, and no worker has been back yet: what runs is not recorded anew either.
            if word is not None:
                log.warning("Redis was lost", extra={"calls": len(self._calls)})
            self._lost_at = time.monotonic()
        if word is not None:
            self._epoch = word
        if secret != self._secret:
            # Not in the pipeline: redis-py puts the words of a pipeline's failed command into the exception.
            await self._watcher.set(keys.SECRET, self._secret)

    async def _look_after_calls(self) -> None:
        now = time.monotonic()
        old = [call for call in self._calls.values() if now - call.published > 1.0 and not call.future.done()]
        if not old:
            return
        async with self._watcher.pipeline(transaction=False) as pipe:
            for call in old:
                pipe.hmget(keys.invocation(call.invocation.request_id), "state", "worker")
                pipe.llen(queue(call.mode, "sync"))
            found = await pipe.execute()
        for call, (state, worker), queued in zip(old, found[::2], found[1::2], strict=True):
            # A message that is in no queue is with a worker, which claims it in a moment; or it went with one that died.
            call.missed = 0 if state or queued else call.missed + 1
            await self._look_after(call, now, (state or b"").decode(), (worker or b"").decode())

    async def _look_after(self, call: _Call, now: float, state: str, worker: str) -> None:
        call.begun = call.begun or state in ("run", "done")
        if state in ("run", "held"):
            if worker not in self._workers and not await result_of(self._watcher.exists(keys.worker(worker))):
                await self._give_up(call, _unavailable("The worker that ran the invocation died.", status=500))
        elif state == "done":
            # Its reply is about to be read, or went to a connection that was lost.
            call.done = call.done or now
            if now - call.done > _UNREAD_S:
                await self._give_up(call, _unavailable("The outcome was lost with a connection to Redis.", status=500))
        elif call.begun and not (call.published < self._lost_at and now - self._lost_at < _REJOIN_S):
            await self._give_up(call, _unavailable("The invocation's record is gone.", status=500))
        else:
            lost = call.published < self._lost_at and now - self._lost_at > _REJOIN_S
            overdue = now - call.published > self._queue_wait_s
            if (state == "void" or lost or overdue or call.missed >= _MISSED) and await self._void(call):
                if overdue:
                    await self._give_up(call, _throttled(ACCOUNT_EXCEEDED))
                else:
                    await self._publish_again(call)

    async def _publish_again(self, call: _Call) -> None:
        """Its message is lost, and it was voided: a new attempt does no harm, whoever still has the message."""
        await self._forget(call)
        log.info("an unclaimed call is published again", extra={"request_id": call.invocation.request_id})
        call.missed = 0
        call.invocation = msgspec.structs.replace(call.invocation, attempt=call.invocation.attempt + 1)
        try:
            await self._publish(call)
        except AwsError as error:
            _fail(call, error)

    async def _void(self, call: _Call) -> bool:
        """Whether the call can't begin any more."""
        word = await self._run(
            "claim",
            [keys.invocation(call.invocation.request_id), call.slot.key],
            ["void", call.invocation.attempt, self.name, "", 0, _AFTERLIFE_MS, -1, "", 0],
        )
        return bool(word == b"void")

    async def _give_up(self, call: _Call, error: AwsError) -> None:
        _fail(call, error)
        await self._forget(call)

    async def _forget(self, call: _Call) -> None:
        spec = call.target.spec
        await self._run(
            "forget",
            [
                keys.concurrency(spec.account, spec.region, spec.function),
                keys.concurrency(spec.account, spec.region),
                keys.payload(call.invocation.request_id),
                keys.invocation(call.invocation.request_id),
            ],
            [_member(call.invocation), call.invocation.attempt, _AFTERLIFE_MS],
        )

    # Making functions ready

    def workers_of(self, mode: str) -> list[str]:
        """The living workers of a mode that take work."""
        return [name for name, w in self._workers.items() if w["mode"] == mode and w.get("stopping") != "1"]

    async def prepare(
        self, spec: FunctionSpec, code_url: str, workers: Sequence[str], within_s: float
    ) -> list[Prepared]:
        """Have workers make a function ready; the answers of those that gave one and live. Raises Redis' errors."""
        reply_to = keys.prepared(secrets.token_hex(16))
        letter = b"prepare " + encode(Prepare(spec=spec, code_url=code_url, reply_to=reply_to))
        async with self._redis.pipeline(transaction=False) as pipe:
            for worker in workers:
                pipe.rpush(keys.mailbox(worker), letter)
                pipe.pexpire(keys.mailbox(worker), keys.MAILBOX_MS)
            await pipe.execute()
        answers: list[Prepared] = []
        pause_s = 0.005
        give_up = time.monotonic() + within_s
        while time.monotonic() < give_up and not {a.worker for a in answers} >= self._workers.keys() & set(workers):
            # Asked again and again: waiting in Redis would keep one of the connections that calls need.
            found = await result_of(self._redis.lpop(reply_to))
            if found is not None:
                answers.append(decode_prepared(found))
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(1.5 * pause_s, _TICK_S)
        return answers

    async def supersede(self, function: str, version: str, revision: str) -> None:
        """Have idle environments retired whose revision is not this one. ``function``: ``account:region:name``.

        ``version`` may be ``*``, and ``revision`` empty when the version is gone. A note that is lost costs nothing: such an
        environment never gets another invocation, and its idle time ends it.
        """
        try:
            await self._run("supersede", [keys.SUPERSEDED], [f"{function}:{version}={revision}", keys.SUPERSEDED_MS])
        except (RedisError, OSError) as error:
            log.info("old environments stay until they are idle for too long", extra={"error": str(error)})

    # For the pages

    async def environments(self) -> list[dict[str, Any]]:
        """The records of all environments."""
        async with self._watcher.pipeline(transaction=False) as pipe:
            for worker in self._workers:
                pipe.smembers(keys.environments(worker))
            names = [name.decode() for group in await pipe.execute() for name in group]
            for name in names:
                pipe.hgetall(keys.environment(name))
            records = await pipe.execute()
        return [
            {"id": name, **{field.decode(): value.decode() for field, value in record.items()}}
            for name, record in zip(names, records, strict=True)
            if record
        ]

    async def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(await result_of(self._watcher.ping()))
        except (RedisError, OSError):
            return False


def _fail(call: _Call, error: AwsError) -> None:
    if not call.future.done():
        call.future.set_exception(error)


def _member(invocation: Invocation) -> str:
    return f"{invocation.request_id}:{invocation.attempt}"


def _throttled(reason: str) -> AwsError:
    return AwsError("TooManyRequestsException", "Rate Exceeded.", Reason=reason, retryAfterSeconds=1)


def _unavailable(message: str, status: int = 503) -> AwsError:
    return AwsError("ServiceException", message, status=status)
