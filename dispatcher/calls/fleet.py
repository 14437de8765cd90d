"""The fleet: the workers that live, as this dispatcher last found them in Redis, and what is said to all of them.

A worker lives while its heartbeat does. Beside the workers an inspection finds whether Redis is still the one it was (its
epoch: a random word that is gone when Redis was lost) and how much memory it has left, because both decide whether anything
new may begin. Nothing here runs by itself: ``sync_calls`` inspects the fleet before it judges what became of its calls.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis import RedisError

from dispatcher.redis_client import connect, result_of, run_call
from workers.contract import keys
from workers.contract.messages import FunctionSpec, Prepare, Prepared, decode_prepared, encode
from workers.contract.scripts import notices

#: A worker's heartbeat lasts 5 s; in this time after a loss of Redis every living one has registered again.
_REJOIN_S: Final = 3.0
#: Part of Redis' memory over which nothing new begins: what is running needs the rest to end.
_LOW_MEMORY: Final = 0.8
_FIRST_POLL_S: Final = 0.005
_LONGEST_POLL_S: Final = 0.5

log = logging.getLogger(__name__)


class Fleet:
    """The living workers as one dispatcher sees them.

    ``function_secret`` is the key of the tokens on functions' own calls, which workers read in Redis.
    """

    def __init__(self, redis_url: str, *, function_secret: bytes) -> None:
        self._redis = connect(redis_url)
        self._secret = function_secret
        self._workers: dict[str, dict[str, str]] = {}
        self._modes: frozenset[str] = frozenset()
        self._memory_low = False
        self._epoch: str | None = None
        self._redis_lost_at = 0.0

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._redis.aclose()

    # What was found

    @property
    def modes(self) -> frozenset[str]:
        """The modes that a living worker serves; none while Redis is gone."""
        return self._modes

    @property
    def workers(self) -> Mapping[str, Mapping[str, str]]:
        """Living workers and what they say of themselves."""
        return self._workers

    @property
    def memory_low(self) -> bool:
        """Whether Redis has so little memory left that nothing new should begin."""
        return self._memory_low

    @property
    def redis_lost_at(self) -> float:
        """Monotonic time, in seconds, at which Redis was last found to have been lost; 0 if it never was."""
        return self._redis_lost_at

    @property
    def recovering(self) -> bool:
        """Whether Redis was lost a moment ago: workers are about to record again what they run."""
        return time.monotonic() - self._redis_lost_at < _REJOIN_S

    def workers_of(self, mode: str) -> list[str]:
        """The living workers of a mode that take work."""
        return [name for name, worker in self._workers.items() if worker["mode"] == mode and _takes_work(worker)]

    # Inspecting

    async def inspect(self) -> None:
        """Find out which workers live, and whether Redis is still the one it was. Raises Redis' errors."""
        async with self._redis.pipeline(transaction=False) as pipe:
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
        self._memory_low = 0 < memory["maxmemory"] * _LOW_MEMORY < memory["used_memory"]
        self._modes = frozenset(worker["mode"] for worker in self._workers.values() if _takes_work(worker))
        self._compare_epoch(epoch.decode() if epoch else None)
        if secret != self._secret:
            # Not in the pipeline: redis-py puts the words of a pipeline's failed command into the exception.
            await self._redis.set(keys.SECRET, self._secret)

    def _compare_epoch(self, epoch: str | None) -> None:
        if self._epoch is not None and epoch != self._epoch:
            # Without an epoch Redis is empty, and no worker has been back yet: what runs is not recorded anew either.
            if epoch is not None:
                log.warning("Redis was lost")
            self._redis_lost_at = time.monotonic()
        if epoch is not None:
            self._epoch = epoch

    def mark_unreachable(self, error: Exception) -> None:
        """Redis does not answer: no mode is served until the next inspection."""
        if self._modes:
            log.warning("Redis is gone; waiting for it", extra={"error": type(error).__name__})
        self._modes = frozenset()

    async def is_alive(self, worker: str) -> bool:
        """Whether a worker lives, asked again if the last inspection did not find it. Raises Redis' errors."""
        return worker in self._workers or bool(await result_of(self._redis.exists(keys.worker(worker))))

    async def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(await result_of(self._redis.ping()))
        except (RedisError, OSError):
            return False

    # Environments and functions

    async def environments(self) -> list[dict[str, Any]]:
        """The records of all environments. Raises Redis' errors."""
        async with self._redis.pipeline(transaction=False) as pipe:
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

    async def prepare_function(
        self, spec: FunctionSpec, code_url: str, workers: Sequence[str], within_s: float
    ) -> list[Prepared]:
        """Have workers make a function ready; the answers of those that gave one and live. Raises Redis' errors."""
        reply_to = keys.prepared(secrets.token_hex(16))
        message = b"prepare " + encode(Prepare(spec=spec, code_url=code_url, reply_to=reply_to))
        async with self._redis.pipeline(transaction=False) as pipe:
            for worker in workers:
                pipe.rpush(keys.mailbox(worker), message)
                pipe.pexpire(keys.mailbox(worker), keys.MAILBOX_MS)
            await pipe.execute()
        answers: list[Prepared] = []
        pause_s = _FIRST_POLL_S
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and not {a.worker for a in answers} >= self._workers.keys() & set(workers):
            # Asked again and again: waiting in Redis would keep one of the connections that inspections need.
            found = await result_of(self._redis.lpop(reply_to))
            if found is not None:
                answers.append(decode_prepared(found))
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(1.5 * pause_s, _LONGEST_POLL_S)
        return answers

    async def supersede(self, function: str, version: str, revision: str) -> None:
        """Have idle environments retired whose revision is not this one. ``function``: ``account:region:name``.

        ``version`` may be ``*``, and ``revision`` empty when the version is gone. A note that is lost costs nothing: such
        an environment never gets another invocation, and its idle time ends it.
        """
        try:
            await run_call(self._redis, notices.supersede(function=function, version=version, revision=revision))
        except (RedisError, OSError) as error:
            log.info("old environments stay until they are idle for too long", extra={"error": str(error)})


def _takes_work(worker: Mapping[str, str]) -> bool:
    """Whether a worker is not stopping: a stopping one finishes what it runs, and takes nothing more."""
    return worker.get("stopping") != "1"
