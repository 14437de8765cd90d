"""Celery as both sides use it: one task, msgpack, no result backend, no events, no remote control.

The dispatcher writes task messages with :func:`envelope` instead of ``send_task``: the same bytes (a contract test
holds them together) at a tenth of the CPU, and they can go into the one Lua step that also admits the call. What
Everwarm changes about kombu's transport is in ``workers.contract.transport``.
"""

import base64
import json
import uuid
from typing import Any, Final

import msgspec
from celery import Celery
from kombu import Queue, serialization

from workers.contract.messages import LANES, Lane
from workers.contract.transport import Polls, broker_url

TASK: Final = "everwarm.run"
SERIALIZER: Final = "everwarm-msgpack"
CONTENT_TYPE: Final = "application/x-msgpack"
#: What stands in the message's headers instead of the arguments, which contain payloads and environment values.
HIDDEN: Final = "(…)"

_NO_CALLBACKS: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

serialization.register(SERIALIZER, msgspec.msgpack.encode, msgspec.msgpack.decode, CONTENT_TYPE, "binary")


def queue(mode: str, lane: Lane) -> str:
    """The name of a queue, which is also its Redis list."""
    return f"everwarm.{mode}.{lane}"


def create_celery(redis_url: str, mode: str | None = None, polls: Polls | None = None) -> Celery:
    """The Celery application; with ``mode`` it consumes that mode's queues, and notes in ``polls`` that it does."""
    app = Celery("everwarm", set_as_current=False)
    app.conf.update(
        broker_url=broker_url(redis_url),
        broker_transport_options={
            # Celery's and ours are other keys; long, and without meaning, since the transport restores nothing by it.
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
