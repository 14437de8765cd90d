"""The feeder: sends what is due to the workers, as many messages as slots are free, and rescues what is lost in flight.

A message may be lost: with Redis, or with a worker that had just received it. Nobody has it then, and it is in no queue; or
its worker has no heartbeat. To rescue its events, each attempt is claimed as ``void`` first: if that is granted, the attempt
never ran and never will; if not, it runs, has ended, or its worker died while it ran, and the record says which.
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Final

from redis import RedisError

from dispatcher.calls.placement import mode_of
from dispatcher.catalog.resolving import Target
from dispatcher.events.sizing import Sizing
from dispatcher.events.slots import most_in_flight
from dispatcher.ledger.endings import Ending
from dispatcher.ledger.feeding import Fed, Plan, in_flight_since
from dispatcher.loops import cancel, forever
from dispatcher.redis_client import connect, result_of, run_call
from dispatcher.wire.errors import AwsError
from workers.contract import keys
from workers.contract.broker import envelope, queue
from workers.contract.messages import INLINE_PAYLOAD_BYTES, START_MS, VERSION, Invocation, Mode, encode_batch
from workers.contract.scripts import attempts, claim

if TYPE_CHECKING:
    import redis.asyncio

    from dispatcher.ledger.rows import InFlightEvent
    from dispatcher.operations.services import Services

#: How often there is a round at least, because workers come and go, and on PostgreSQL others accept events too.
_TICK_S: Final = 0.5
_BETWEEN_S: Final = 0.02
#: How long a message may wait to be claimed; after that no worker claims it any more.
_CLAIM_BY_S: Final = 120.0
_AFTERLIFE_MS: Final = 60_000
#: How long the record of a void attempt lives: as long as a copy of its message could be claimed.
_VOID_MS: Final = int(_CLAIM_BY_S * 1000) + _AFTERLIFE_MS
#: What has been in flight for less than this needs no rescue.
_YOUNG_MS: Final = 1000
#: How many looks in a row must miss a message before it counts as lost; and before a worker that lives, but does not say any
#: more that it has the message, is taken to have ended it.
_MISSED: Final = 3
_ABANDONED: Final = 20
_LAG_S: Final = 2.0
#: How long the outcome of an attempt that has ended, by its record, may be on its way before it counts as lost.
_UNREAD_S: Final = 10.0

log = logging.getLogger(__name__)


class Feeder:
    """One dispatcher's feeder."""

    def __init__(self, services: "Services", sizing: Sizing) -> None:
        self._services = services
        self._ledger = services.ledger
        self._fleet = services.fleet
        self._sizing = sizing
        self._redis: redis.asyncio.Redis = connect(services.settings.redis_url)
        self._after = ""
        self._due = asyncio.Event()
        self._room = False
        """A slot may have become free since the last round found none."""
        self._full = False
        self._next_round = 0.0
        self._missed: Counter[str] = Counter()
        self._done_since: dict[tuple[str, int], float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Feed and rescue in the background from now on."""
        self._tasks = [
            asyncio.create_task(forever(self._round, "feeding"), name="feeder"),
            asyncio.create_task(forever(self._rescue, "rescuing events"), name="rescue"),
        ]

    async def close(self) -> None:
        """Stop; what is in flight stays so, and whoever comes next rescues what is lost of it."""
        await cancel(*self._tasks)
        await self._redis.aclose()

    def wake(self, *, room: bool = False) -> None:
        """Tell the feeder that something is due; or, with ``room``, that a slot has become free."""
        self._room = self._room or room
        if self._room or not self._full:
            self._due.set()

    # Feeding

    async def _round(self) -> None:
        # What comes in quick succession is dealt with together.
        await asyncio.sleep(max(self._next_round - time.monotonic(), 0))
        self._next_round = time.monotonic() + _BETWEEN_S
        self._due.clear()
        self._room = False
        pause_s = _TICK_S
        if not self._fleet.memory_low and not self._fleet.recovering:
            most = most_in_flight(self._fleet.workers.values(), self._services.settings.sync_reserve)
            self._full = False  # until it is known: what becomes due meanwhile must not be missed
            done = await self._ledger.feed(
                Plan(
                    most,
                    self._mode_of,
                    self._sizing.size_of,
                    lambda: secrets.token_hex(12),
                    self._services.catalog.cached,
                    self._after,
                )
            )
            self._after, self._full = done.after, done.full
            await self._publish_all(done.fed)
            if done.more:
                return
            if done.next_ms is not None:
                pause_s = min(pause_s, max(done.next_ms - self._ledger.clock.now_ms(), 1) / 1000)
        try:
            await asyncio.wait_for(self._due.wait(), pause_s)
        except TimeoutError:
            return

    def _mode_of(self, target: Target) -> Mode:
        return mode_of(target, self._services.default_mode, self._fleet.modes)

    async def _publish_all(self, messages: list[Fed]) -> None:
        for fed in messages:
            try:
                await self._publish(fed)
            except (RedisError, OSError, AwsError):
                raise  # nothing gets out
            except Exception:
                # What is wrong with one function's message delays no other's.
                log.exception("a message can't be published", extra={"function": fed.target.spec.arn})

    async def _publish(self, fed: Fed) -> None:
        """Send a message whose events are in flight by now; if that fails they are rescued as from any lost message."""
        target = fed.target
        slot = await self._services.admission.slot(target)
        claim_by_ms = int((time.time() + _CLAIM_BY_S) * 1000)
        invocations: list[Invocation] = []
        async with self._redis.pipeline(transaction=False) as pipe:
            for event in fed.events:
                separate = len(event.payload) > INLINE_PAYLOAD_BYTES
                payload_key = keys.payload(event.request_id, event.attempt) if separate else ""
                if separate:
                    pipe.set(payload_key, event.payload, px=_VOID_MS + START_MS + target.spec.timeout_s * 1000)
                invocations.append(
                    Invocation(
                        request_id=event.request_id,
                        attempt=event.attempt,
                        lane=fed.lane,
                        invoked_arn=target.invoked_arn,
                        payload=b"" if separate else event.payload,
                        payload_key=payload_key,
                        counted_in=slot.key,
                        limit=slot.limit,
                        claim_by_ms=claim_by_ms,
                        reply_to=keys.OUTCOMES,
                        trace_id=event.trace_id,
                    )
                )
            code = self._services.code
            code_url = code.signed_path(target.code_sha256) if target.code_sha256 else ""
            name = queue(fed.mode, fed.lane)
            batch = encode_batch(VERSION, target.spec_raw, code_url, invocations, name=fed.message)
            pipe.lpush(name, envelope(batch, name))
            await pipe.execute()

    # Rescuing what is lost in flight

    async def _rescue(self) -> None:
        await asyncio.sleep(_TICK_S)
        if self._fleet.recovering or await self._settling_lags():
            return
        rows = await self._ledger.read(in_flight_since, self._ledger.clock.now_ms() - _YOUNG_MS)
        messages = {name: list(found) for name, found in groupby(sorted(rows, key=_message), _message)}
        for gone in self._missed.keys() - messages.keys():
            del self._missed[gone]
        if not messages:
            return
        in_flight = {(row.request_id, row.attempt) for row in rows}
        self._done_since = {name: since for name, since in self._done_since.items() if name in in_flight}
        suspicious = await self._suspicious(messages)
        endings = [ending for name in suspicious for row in messages[name] if (ending := await self._examine(row))]
        if endings:
            log.info("events whose worker or message is gone are fed again", extra={"events": len(endings)})
            for settled in await self._ledger.settle(endings):
                log.debug("fed again", extra={"request_id": settled.request_id})
            self.wake(room=True)

    async def _suspicious(self, messages: "dict[str, list[InFlightEvent]]") -> list[str]:
        """Names of the messages that nobody has, or that a dead worker had."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for name, rows in messages.items():
                pipe.get(keys.message(name))
                pipe.llen(queue(rows[0].mode, rows[0].lane))
            found = await pipe.execute()
        overdue_ms = self._ledger.clock.now_ms() - int(_CLAIM_BY_S * 1000)
        suspicious = []
        for (name, rows), worker, queued in zip(messages.items(), found[::2], found[1::2], strict=True):
            if worker is not None:
                missing = not await self._lives(worker.decode())
                # More than one look: a machine that was suspended, or a Redis that hung, goes on with all heartbeats expired.
                self._missed[name] = self._missed[name] + 1 if missing else 0
            else:
                waits = queued and rows[0].fed_at > overdue_ms
                self._missed[name] = 0 if waits else self._missed[name] + 1
            if self._missed[name] >= _MISSED:
                suspicious.append(name)
        return suspicious

    async def _settling_lags(self) -> bool:
        """Whether outcomes have been waiting for a while; attempts that have such an outcome must not count as lost."""
        oldest = await result_of(self._redis.xrange(keys.OUTCOMES, count=1))
        if not oldest:
            return False
        seconds, micros = await result_of(self._redis.time())
        lag_s: float = seconds + micros / 1e6 - int(oldest[0][0].split(b"-")[0]) / 1000
        return lag_s > _LAG_S

    async def _lives(self, worker: str) -> bool:
        return worker in self._fleet.workers or bool(await result_of(self._redis.exists(keys.worker(worker))))

    async def _examine(self, row: "InFlightEvent") -> Ending | None:
        """How an attempt ended of which no worker will say anything; None when one will, or has."""
        record = keys.invocation(row.request_id)
        void = claim.void(request_id=row.request_id, attempt=row.attempt, asker="feeder", life_ms=_VOID_MS)
        if await run_call(self._redis, void) == "void":
            return self._ending(row, "lost", "", "")
        found = await result_of(self._redis.hmget(record, "state", "worker", "environment"))
        state, worker, environment = ((value or b"").decode() for value in found)
        if state in {"run", "reserved"}:
            # A worker that lives and does not say any more that it has the message has ended it: Redis lost the outcome.
            if await self._lives(worker) and self._missed[row.message] < _ABANDONED:
                return None
            await self._forget(row)
            return self._ending(row, "died" if state == "run" else "lost", worker, environment)
        now = time.monotonic()
        since = self._done_since.setdefault((row.request_id, row.attempt), now)
        return self._ending(row, "lost", worker, environment) if now - since > _UNREAD_S else None

    def _ending(self, row: "InFlightEvent", kind: str, worker: str, environment: str) -> Ending:
        self._done_since.pop((row.request_id, row.attempt), None)
        now_ms = self._ledger.clock.now_ms()
        message = "The worker died while it ran the event." if kind == "died" else "No worker ran it to an end."
        return Ending(
            row.request_id,
            row.attempt,
            "died" if kind == "died" else "lost",
            row.fed_at,
            now_ms,
            worker,
            environment,
            error_type="ServiceException",
            error_message=message,
        )

    async def _forget(self, row: "InFlightEvent") -> None:
        account, region, function = row.function.split(":", 2)
        forget = attempts.forget(
            account=account,
            region=region,
            function=function,
            request_id=row.request_id,
            attempt=row.attempt,
            payload_key=keys.payload(row.request_id, row.attempt),
            life_ms=_AFTERLIFE_MS,
        )
        await run_call(self._redis, forget)


def _message(row: "InFlightEvent") -> str:
    return str(row.message)
