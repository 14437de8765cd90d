"""Redis as a worker uses it: calls of scripts, from any thread."""

import re
import threading
from typing import Any, Final, TypeVar

import redis
from redis._parsers.base import BaseParser
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.contract.scripts.call import Call

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

#: How Redis before 7 words it when it refuses a command inside a script: the refusal's own words come last.
_REFUSED_IN_SCRIPT: Final = re.compile(r"@user_script: \d+: -(.+)", re.DOTALL)

Answer = TypeVar("Answer")
First = TypeVar("First")
Second = TypeVar("Second")


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

    def run(self, call: Call[Answer]) -> Answer:
        """Run a script. A lost connection is tried again once: every script may be repeated (an owner token fences it).

        Raises ``redis.ConnectionError`` or ``redis.TimeoutError`` (:data:`Unavailable`) when Redis is gone.
        """
        client: Any = self.client  # redis-py has no types for commands as such
        try:
            try:
                answer = client.execute_command(*call.evalsha())
            except redis.exceptions.NoScriptError:
                answer = client.execute_command(*call.eval())
        except redis.ResponseError as error:
            raise _refusal_of(error) from None
        return call.decode(answer)

    def run_both(self, first: Call[First], second: Call[Second]) -> tuple[First, Second]:
        """Run two scripts, one after the other, in one round trip. Raises as :meth:`run`; then either may have run."""
        connection: Any = self.client.connection  # this thread's one; a pipeline of redis-py takes twice the CPU
        if connection is None:
            return self.run(first), self.run(second)
        try:
            connection.send_packed_command(connection.pack_commands((first.evalsha(), second.evalsha())))
            found = [_answer(connection), _answer(connection)]
        except Unavailable:
            connection.disconnect()  # or the answers would be taken for those of the next command
            raise
        if any(isinstance(one, redis.exceptions.NoScriptError) for one in found):
            return self.run(first), self.run(second)
        for one in found:
            if isinstance(one, redis.ResponseError):
                raise _refusal_of(one)
        return first.decode(found[0]), second.decode(found[1])


def _refusal_of(error: redis.ResponseError) -> redis.ResponseError:
    """The error of the command that a script was refused, where redis-py sees nothing but a script that failed.

    Redis 6.2 says so of full memory, a full disk and a replica; later ones begin with the refusal's own word.
    """
    found = _REFUSED_IN_SCRIPT.search(str(error))
    if found is None:
        return error
    parser: Any = BaseParser  # redis-py has no types for it
    refusal: redis.ResponseError = parser.parse_error(found[1])
    return refusal


def _answer(connection: Any) -> Any:
    """What Redis says; what it says of a wrong command is an answer too."""
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error
