"""Cancelling events. A queued one just ends; of one in flight the attempt has to be stopped too
(:mod:`dispatcher.events.cancelling`). Nothing follows such an end: no retry, no destination, no dead letter.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, select, update

from dispatcher.ledger import listing
from dispatcher.ledger.accepting import EventRow
from dispatcher.ledger.listing import Filters
from dispatcher.sql.tables import events

CONDITION: Final = "Cancelled"
#: Events of one transaction.
BATCH: Final = 500


def queued(connection: Connection, filters: Filters, before: int | None, limit: int = BATCH) -> list[EventRow]:
    """Rows of queued events that match, newest first, with ids below ``before``: the feeder comes from the other end."""
    return listing.find(connection, replace(filters, state="queued"), limit, before)


def fed(connection: Connection, filters: Filters) -> list[EventRow]:
    """Rows of the events in flight that match. There are no more of them than slots and payloads in flight allow."""
    return listing.find(connection, replace(filters, state="fed"), _ALL)


def one(connection: Connection, request_id: str) -> EventRow | None:
    """The row of one event."""
    return connection.execute(select(events).where(events.c.request_id == request_id)).one_or_none()


def cancel_queued(connection: Connection, ids: Sequence[int], now_ms: int) -> list[EventRow]:
    """Cancel those that are still queued; answers their request_id, function and lane."""
    return _cancel(connection, [events.c.id.in_(ids), events.c.state == "queued"], now_ms)


def cancel_fed(connection: Connection, request_id: str, attempt: int, now_ms: int) -> bool:
    """Cancel it if this attempt is still in flight: a late outcome of it then changes nothing."""
    same = [events.c.request_id == request_id, events.c.attempt == attempt, events.c.state == "fed"]
    return bool(_cancel(connection, same, now_ms))


_ALL: Final = 1_000_000


def _cancel(connection: Connection, conditions: Sequence[ColumnElement[bool]], now_ms: int) -> list[EventRow]:
    query = select(events.c.id, events.c.request_id, events.c.function, events.c.lane).where(*conditions)
    if connection.dialect.name == "postgresql":
        query = query.with_for_update()
    found = list(connection.execute(query).all())
    ended: dict[str, Any] = {"state": "cancelled", "condition": CONDITION, "ended_at": now_ms, "due_at": 0}
    if found:
        connection.execute(update(events).where(events.c.id.in_([row.id for row in found])).values(**ended))
    return found
