"""Redis as the dispatcher uses it: connections, and calls of scripts."""

from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import redis.asyncio

from workers.contract.scripts.call import Call

Answer = TypeVar("Answer")

_TIMEOUT_S: Final = 2.0
_CONNECTIONS: Final = 32


def connect(url: str) -> "redis.asyncio.Redis":
    """A client with a bounded pool that waits: redis-py's default one fails when over a hundred commands are under way."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=_TIMEOUT_S,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
    )
    return redis.asyncio.Redis.from_pool(pool)


async def run_call(client: "redis.asyncio.Redis", call: Call[Answer]) -> Answer:
    """Run a script; raises Redis' errors."""
    execute: Any = client.execute_command  # redis-py has no types for commands as such
    try:
        answer = await execute(*call.evalsha())
    except redis.exceptions.NoScriptError:
        answer = await execute(*call.eval())
    return call.decode(answer)


async def result_of(answer: "Awaitable[Any] | Any") -> Any:
    """The answer of a command, which redis-py types as awaitable or not."""
    return await answer
