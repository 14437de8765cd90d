"""kombu's Redis transport for a worker's consumer: without copies of messages in Redis, and with a note of each poll.

Messages are disposable copies (the ledger or the waiting caller is the truth), so the worker's channel keeps no record
of unacknowledged ones in Redis. kombu would write every message there a second time, restore it over a dead connection
when Redis goes (which kills a late-acknowledging worker, kombu 5.7.0), and leave it there when the worker is killed.
What stays is what late acknowledgement is wanted for: a worker never has more messages than slots.
"""

import time
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from kombu.transport import TRANSPORT_ALIASES, redis, virtual


class InMemoryQoS(virtual.QoS):  # type: ignore[misc] # kombu has no types
    """Counts unacknowledged messages against the prefetch limit, in memory only."""

    restore_at_shutdown = False

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put the message back if asked to, like kombu's own; nothing else needs to know."""
        if requeue:
            self.channel._restore_at_beginning(self._delivered[delivery_tag])
        super().ack(delivery_tag)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: there is nothing in Redis that could be restored."""


def clock() -> float:
    """Seconds of a clock that is never set and, unlike ``time.monotonic``, goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Polls:
    """When a worker's consumer last asked its queues; the consumer notes it, and any thread may read."""

    def __init__(self) -> None:
        self.last = clock()
        """Time (:func:`clock`) at which the consumer last asked its queues; until it has, that of this object's birth."""
        self._channel: Any = None

    def note(self, channel: Any) -> None:
        """``channel`` has asked its queues. An idle consumer does so every second, when the last answer has come."""
        self._channel = channel
        self.last = clock()

    @property
    def full(self) -> bool:
        """The consumer has as many unacknowledged messages as it may, and rightly asks for no more."""
        # The unacknowledged messages of a closed channel limit nobody.
        channel = self._channel
        return channel is not None and not channel.closed and not channel.qos.can_consume()


class Channel(redis.Channel):  # type: ignore[misc] # kombu has no types
    """kombu's Redis channel without its copy of every unacknowledged message, that notes its polls."""

    QoS = InMemoryQoS
    do_restore = False
    polls: Polls | None = None
    from_transport_options = (*redis.Channel.from_transport_options, "polls")

    def _restore(self, message: Any, leftmost: bool = False) -> None:  # noqa: ARG002 - kombu says where it wants it
        """Put the message back into its queue. kombu's own method would look for a copy in Redis, and drop what has none."""
        virtual.Channel._restore(self, message)

    def _brpop_start(self, timeout: float | None = None) -> None:
        super()._brpop_start(timeout)
        # A channel without queues has sent nothing.
        if self.polls is not None and self._in_poll:
            self.polls.note(self)


class Transport(redis.Transport):  # type: ignore[misc] # kombu has no types
    """kombu's Redis transport over :class:`Channel`."""

    Channel = Channel


TRANSPORT_ALIASES["everwarm"] = f"{__name__}:Transport"


def broker_url(redis_url: str) -> str:
    """Turn a redis-py URL into kombu's form, with this module's transport.

    ``unix://:password@/path?db=0`` becomes ``everwarm+socket://:password@/path``, ``redis://…`` becomes
    ``everwarm://…``. Raises ``ValueError`` for another scheme.
    """
    parts = urlsplit(redis_url)
    if parts.scheme == "redis":
        return "everwarm" + redis_url.removeprefix("redis")
    if parts.scheme != "unix":
        raise ValueError(f"Redis URL has scheme {parts.scheme!r}; valid are redis and unix")
    query = dict(parse_qsl(parts.query))
    password = unquote(parts.password or "") or query.get("password", "")
    login = f":{quote(password, safe='')}@" if password else ""
    return f"everwarm+socket://{login}{parts.path}?virtual_host={query.get('db', '0')}"
