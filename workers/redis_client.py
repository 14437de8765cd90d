"""Redis as a worker uses it: the scripts by name, from any thread."""

import threading
from collections.abc import Sequence
from typing import Any

import redis
from redis._parsers.base import BaseParser
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.contract import scripts

#: A command that takes longer means that Redis hangs: the caller retries or gives up.
TIMEOUT_S = 2.0


class WritesRefused(redis.ResponseError):
    """Redis answers and takes no writes: its disk is full, or its replicas are gone."""


# redis-py has no class of its own for these words, and would raise its most general one.
BaseParser.EXCEPTION_CLASSES.update(MISCONF=WritesRefused, NOREPLICAS=WritesRefused, MASTERDOWN=WritesRefused)

#: Redis is gone, hangs, is full, or does not take writes: to be waited out.
Unavailable = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.BusyLoadingError,
    redis.OutOfMemoryError,
    redis.ReadOnlyError,
    WritesRefused,
)


#: A script's name, keys and arguments.
Step = tuple[str, Sequence[str], Sequence[str | bytes | int | float]]


class Store:
    """One Redis; a connection per thread, since a pool's lock is on the warm path four times a call."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._local = threading.local()

    @property
    def client(self) -> "redis.Redis":
        """This thread's client."""
        found: redis.Redis | None = getattr(self._local, "client", None)
        if found is None:
            found = redis.Redis.from_url(
                self._url,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                single_connection_client=True,
                # A connection that idled while Redis was restarted fails at its next command. Not redis-py's default here.
                retry=Retry(NoBackoff(), 1),
            )
            self._local.client = found
        return found

    def run(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | int | float]) -> Any:
        """Run a script. A lost connection is tried again once: every script may be repeated (an owner token fences it).

        Raises ``redis.ConnectionError`` or ``redis.TimeoutError`` (:data:`Unavailable`) when Redis is gone.
        """
        script = scripts.load(name)
        try:
            return self.client.evalsha(script.sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return self.client.eval(script.source, len(keys), *keys, *args)

    def run_both(self, first: "Step", second: "Step") -> tuple[Any, Any]:
        """Run two scripts, one after the other, in one round trip. Raises as :meth:`run`; then either may have run."""
        connection: Any = self.client.connection  # this thread's one; a pipeline of redis-py takes twice the CPU
        if connection is None:
            return self.run(*first), self.run(*second)
        commands = [
            ("EVALSHA", scripts.load(name).sha, len(keys), *keys, *args) for name, keys, args in (first, second)
        ]
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            found = [_answer(connection), _answer(connection)]
        except Unavailable:
            connection.disconnect()  # or the answers would be taken for those of the next command
            raise
        if any(isinstance(one, redis.exceptions.NoScriptError) for one in found):
            return self.run(*first), self.run(*second)
        for one in found:
            if isinstance(one, redis.RedisError):
                raise one
        return found[0], found[1]

    def word(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | int | float]) -> str:
        """Run a script that answers with one word."""
        answer: bytes = self.run(name, keys, args)
        return answer.decode()


def _answer(connection: Any) -> Any:
    """What Redis says; what it says of a wrong command is an answer too."""
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error
