"""Celery as both sides use it: one task, msgpack, no result backend, no events, no remote control.

The dispatcher writes task messages with :func:`envelope` instead of ``send_task``: the same bytes (a contract test holds
them together) at a tenth of the CPU, and they can go into the one Lua step that also admits the call.

Messages are disposable copies (the ledger or the waiting caller is the truth), so the worker's channel keeps no record of
unacknowledged ones in Redis. kombu would write every message there a second time, restore it over a dead connection when
Redis goes (which kills a late-acknowledging worker, kombu 5.7.0), and leave it there when the worker is killed. What stays
is what late acknowledgement is wanted for: a worker never holds more messages than it has slots.
"""

import base64
import json
import time
import uuid
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec
from celery import Celery
from kombu import Queue, serialization
from kombu.transport import TRANSPORT_ALIASES, redis, virtual

from workers.contract.messages import LANES, Lane

TASK: Final = "everwarm.run"
SERIALIZER: Final = "everwarm-msgpack"
CONTENT_TYPE: Final = "application/x-msgpack"
#: What stands in the message's headers instead of the arguments, which hold payloads and environment values.
HIDDEN: Final = "(…)"

_NO_CALLBACKS: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

serialization.register(SERIALIZER, msgspec.msgpack.encode, msgspec.msgpack.decode, CONTENT_TYPE, "binary")


class HeldInMemory(virtual.QoS):  # type: ignore[misc] # kombu has no types
    """Counts unacknowledged messages against the prefetch limit, in memory only."""

    restore_at_shutdown = False

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put back on request, like kombu's own; nothing else needs to know."""
        if requeue:
            self.channel._restore_at_beginning(self._delivered[delivery_tag])
        super().ack(delivery_tag)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Nothing stands in Redis that could be restored."""


def clock() -> float:
    """Seconds of a clock that is never set and, unlike ``time.monotonic``, goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Polls:
    """What a worker's consumer does; it notes, and any thread may read."""

    def __init__(self) -> None:
        self.last = clock()
        """Time (:func:`clock`) at which it last asked its queues for a message; before the first, of this object's birth."""
        self._channel: Any = None

    def note(self, channel: Any) -> None:
        """``channel`` has asked its queues. One that idles does so every second, when the last answer has come."""
        self._channel = channel
        self.last = clock()

    @property
    def full(self) -> bool:
        """It holds as many messages as it may, and rightly asks for no more."""
        # Of a closed channel the messages that it holds limit nobody.
        channel = self._channel
        return channel is not None and not channel.closed and not channel.qos.can_consume()


class Channel(redis.Channel):  # type: ignore[misc] # kombu has no types
    """kombu's Redis channel without its copy of every unacknowledged message, that notes its polls."""

    QoS = HeldInMemory
    do_restore = False
    polls: Polls | None = None
    from_transport_options = (*redis.Channel.from_transport_options, "polls")

    def _restore(self, message: Any, leftmost: bool = False) -> None:  # noqa: ARG002 - kombu says where it wants it
        """Back into its queue: kombu's own looks for the copy in Redis, which there is none of, and would drop it."""
        virtual.Channel._restore(self, message)

    def _brpop_start(self, timeout: float | None = None) -> None:
        super()._brpop_start(timeout)
        # Without queues it has sent nothing.
        if self.polls is not None and self._in_poll:
            self.polls.note(self)


class Transport(redis.Transport):  # type: ignore[misc] # kombu has no types
    """kombu's Redis transport over :class:`Channel`."""

    Channel = Channel


TRANSPORT_ALIASES["everwarm"] = f"{__name__}:Transport"


def queue(mode: str, lane: Lane) -> str:
    """The name of a queue, which is also its Redis list."""
    return f"everwarm.{mode}.{lane}"


def broker_url(redis_url: str) -> str:
    """kombu's form of a redis-py URL, with this module's transport.

    ``unix://:password@/path?db=0`` becomes ``everwarm+socket://:password@/path``, ``redis://…`` becomes ``everwarm://…``.
    Raises ``ValueError`` for another scheme.
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


def create_celery(redis_url: str, mode: str | None = None, polls: Polls | None = None) -> Celery:
    """The Celery application; with ``mode`` it consumes that mode's queues, and notes in ``polls`` that it does."""
    app = Celery("everwarm", set_as_current=False)
    app.conf.update(
        broker_url=broker_url(redis_url),
        broker_transport_options={
            # Celery's and ours are other keys; long, and without meaning (module docstring).
            "visibility_timeout": 86_400,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "polls": polls,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_serializer=SERIALIZER,
        accept_content=[CONTENT_TYPE],
        result_backend=None,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        task_send_sent_event=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_create_missing_queues=False,
        enable_utc=True,
    )
    if mode is not None:
        app.conf.task_queues = [Queue(queue(mode, lane), routing_key=queue(mode, lane)) for lane in LANES]
        app.conf.task_default_queue = queue(mode, "sync")
    return app


def envelope(batch: bytes, queue_name: str) -> bytes:
    """The Celery message (protocol 2) that runs ``batch``, as kombu's Redis transport keeps it in its list."""
    task_id = str(uuid.uuid4())
    body = msgspec.msgpack.encode(((batch,), {}, _NO_CALLBACKS))
    return _HEAD % (
        base64.b64encode(body),
        *(task_id.encode(),) * 3,
        queue_name.encode(),
        str(uuid.uuid4()).encode(),
    )


def _template() -> bytes:
    """The message with ``%b`` where the body, task id (three times), queue and delivery tag go."""
    hole = "\0"
    headers: dict[str, Any] = {
        "lang": "py",
        "task": TASK,
        "id": hole,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": hole,
        "parent_id": None,
        "argsrepr": HIDDEN,
        "kwargsrepr": HIDDEN,
        "origin": "everwarm",
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    message = {
        "body": hole,
        "content-encoding": "binary",
        "content-type": CONTENT_TYPE,
        "headers": headers,
        "properties": {
            "correlation_id": hole,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": hole},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": hole,
        },
    }
    text = json.dumps(message)
    return text.replace("%", "%%").replace(json.dumps(hole)[1:-1], "%b").encode()


_HEAD: Final = _template()
