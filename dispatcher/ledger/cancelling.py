"""Cancelling events in the ledger. Such an end has no consequences: no retry, no destination, no dead letter.

The attempt of an event in flight has to be stopped besides, which :mod:`dispatcher.events.cancelling` does.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, select, update

from dispatcher.ledger import listing
from dispatcher.ledger.listing import Filters
from dispatcher.ledger.rows import CancelledEvent, Event
from dispatcher.sql.tables import events
from dispatcher.sql.typed_rows import columns_of, fetch

CONDITION: Final = "Cancelled"
#: The most events that one transaction cancels.
BATCH: Final = 500
_ALL: Final = 1_000_000


def find_queued(connection: Connection, filters: Filters, before: int | None, limit: int = BATCH) -> list[Event]:
    """Queued events that match, with ids below ``before``; newest first, because the feeder comes from the other end."""
    return listing.find_events(connection, replace(filters, state="queued"), limit, before)


def find_in_flight(connection: Connection, filters: Filters) -> list[Event]:
    """The events in flight that match. There are no more of them than slots and payloads in flight allow."""
    return listing.find_events(connection, replace(filters, state="fed"), _ALL)


def cancel_queued(connection: Connection, ids: Sequence[int], now_ms: int) -> list[CancelledEvent]:
    """Cancel those of the events that are still queued, and answer them."""
    return _cancel(connection, [events.c.id.in_(ids), events.c.state == "queued"], now_ms)


def cancel_in_flight(connection: Connection, request_id: str, attempt: int, now_ms: int) -> bool:
    """Cancel an event if this attempt of it is still in flight; a late outcome of the attempt then changes nothing."""
    same = [events.c.request_id == request_id, events.c.attempt == attempt, events.c.state == "fed"]
    return bool(_cancel(connection, same, now_ms))


def _cancel(connection: Connection, conditions: Sequence[ColumnElement[bool]], now_ms: int) -> list[CancelledEvent]:
    query = select(*columns_of(CancelledEvent, events)).where(*conditions)
    if connection.dialect.name == "postgresql":
        query = query.with_for_update()
    found = fetch(connection, query, CancelledEvent)
    ended: dict[str, Any] = {"state": "cancelled", "condition": CONDITION, "ended_at": now_ms, "due_at": 0}
    if found:
        connection.execute(update(events).where(events.c.id.in_([row.id for row in found])).values(**ended))
    return found
