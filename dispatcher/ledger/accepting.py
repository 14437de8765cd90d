"""Accepting events: what Invoke answers 202 for is inserted here, and is queued from then on."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from dispatcher.catalog.rows import FunctionKey
from dispatcher.sql import hot
from dispatcher.sql.tables import events, payloads
from workers.contract.messages import Lane

_ADD_EVENTS: Final = hot.insert(events.name, *events.c.keys())
_ADD_PAYLOADS: Final = hot.insert(payloads.name, *payloads.c.keys())


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that is to be kept."""

    request_id: str
    function: FunctionKey
    qualifier: str
    """Empty when none was given."""
    payload: bytes
    """JSON; at most 1 MB."""
    trace_id: str = ""
    lane: Lane = "event"
    origin: str = ""
    """What caused the event, such as ``destination:<function>``; empty for a caller of the API."""
    parent: str = ""
    """Request id of the event that this one repeats or follows."""


def key_text(key: FunctionKey) -> str:
    """How the ledger names a function."""
    return f"{key.account}:{key.region}:{key.name}"


def key_of(text: str) -> FunctionKey:
    """The inverse of :func:`key_text`."""
    return FunctionKey(*text.split(":", 2))


def accept(connection: Connection, new: Sequence[NewEvent], ids: Iterable[int], now_ms: int) -> None:
    """Insert the new events, due at once."""
    numbered = list(zip(ids, new, strict=False))
    _ADD_EVENTS(connection, [_row(number, event, now_ms) for number, event in numbered])
    _ADD_PAYLOADS(connection, [{"event_id": number, "payload": event.payload} for number, event in numbered])


def _row(number: int, event: NewEvent, now_ms: int) -> dict[str, Any]:
    return {
        "id": number,
        "request_id": event.request_id,
        "function": key_text(event.function),
        "qualifier": event.qualifier,
        "lane": event.lane,
        "state": "queued",
        "size": len(event.payload),
        "due_at": now_ms,
        "attempt": 0,
        "tries": 0,
        "backoffs": 0,
        "crashes": 0,
        "trace_id": event.trace_id,
        "origin": event.origin,
        "parent": event.parent,
        "mode": "",
        "message": "",
        "fed_at": 0,
        "ended_at": 0,
        "condition": "",
        "error_type": "",
        "error_message": "",
    }
