"""Redis as the dispatcher uses it: connections, and the scripts by name."""

from collections.abc import Awaitable, Sequence
from typing import Any, Final

import redis.asyncio

from workers.contract import scripts

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


async def run_script(client: "redis.asyncio.Redis", name: str, names: Sequence[str], arguments: Sequence[Any]) -> Any:
    """Run a script; raises Redis' errors."""
    script = scripts.load(name)
    try:
        return await client.evalsha(script.sha, len(names), *names, *arguments)
    except redis.exceptions.NoScriptError:
        return await client.eval(script.source, len(names), *names, *arguments)


async def result_of(answer: "Awaitable[Any] | Any") -> Any:
    """The answer of a command, which redis-py types as awaitable or not."""
    return await answer
