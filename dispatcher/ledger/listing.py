"""Finding and showing events. No query reads through the whole ledger: every filter has an index, or an end of one, to begin at.

The newest come first, and that is the order of the ids, which the indexes have behind their own column. What is asked for
by the beginning of a name (all functions of an account, all replays) is looked up name by name, skipping from one to the next.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

from sqlalchemy import Connection, bindparam, select, text

from dispatcher.catalog.rows import FunctionKey
from dispatcher.ledger.accepting import key_of, key_text
from dispatcher.ledger.ids import accepted_ms, first_of
from dispatcher.ledger.rows import Attempt, DeliveryProgress, Event, QueueLength
from dispatcher.sql.skip_scan import skip_scan
from dispatcher.sql.tables import attempts, deliveries, events, payloads
from dispatcher.sql.typed_rows import columns_of, fetch, fetch_one

State = Literal["queued", "fed", "succeeded", "failed", "cancelled"]
STATES: Final[tuple[State, ...]] = get_args(State)

_EVENTS: Final = select(*columns_of(Event, events))
_COLUMNS: Final = ", ".join(Event.__struct_fields__)
#: Spelt out, and with the condition of the index word for word: SQLite finds an index over some of the rows by that only.
_IN_STATE: Final[dict[State, str]] = {
    "queued": "state = 'queued'",
    "fed": "state = 'fed'",
    "succeeded": "state = 'succeeded'",
    "failed": "state IN ('failed', 'cancelled') AND state = 'failed'",
    "cancelled": "state IN ('failed', 'cancelled') AND state = 'cancelled'",
}
#: The most queued events that are sorted here; of more than that the newest are near the end of the ledger.
_FEW: Final = 2000
#: The most names with the same beginning that are looked up one by one.
_NAMES: Final = 2000
#: Sorts behind everything that begins like what stands before it.
_LAST: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which events are meant; what is empty or None does not matter."""

    account: str = ""
    region: str = ""
    function: str = ""
    """A name, which needs account and region beside it."""
    state: State | None = None
    since_ms: int | None = None
    """Accepted then or later."""
    until_ms: int | None = None
    """Accepted before."""
    error: str = ""
    """The error's type."""
    origin: str = ""
    """The whole origin; with ``*`` at its end the beginning of one."""
    lane: str = ""


@dataclass(frozen=True, slots=True)
class Gauge:
    """How many events of one function (``account:region:name``) wait and run in one lane."""

    function: str
    lane: str
    queued: int
    oldest_ms: int | None
    """When the oldest queued event was accepted, in ms since 1970; None when none is queued."""
    fed: int


def list_events(connection: Connection, filters: Filters, limit: int) -> list[dict[str, Any]]:
    """The newest events that match, as JSON objects without payloads, attempts and deliveries."""
    return [_summary(row) for row in find_events(connection, filters, limit)]


def describe_event(connection: Connection, account: str, region: str, request_id: str) -> dict[str, Any] | None:
    """Everything about one event as a JSON object. Account and region may be empty."""
    event = find_event(connection, request_id)
    if event is None or not _is_of(event.function, account, region):
        return None
    payload = connection.execute(select(payloads.c.payload).where(payloads.c.event_id == event.id)).scalar_one_or_none()
    return {
        **_summary(event),
        "trace_id": event.trace_id,
        "mode": event.mode,
        "fed_at": iso(event.fed_at),
        **_payload(payload or b""),
        "attempts": [_attempt(attempt) for attempt in _attempts_of(connection, event)],
        "deliveries": [_delivery(delivery) for delivery in _deliveries_of(connection, event)],
    }


def _attempts_of(connection: Connection, event: Event) -> list[Attempt]:
    query = select(*columns_of(Attempt, attempts)).where(attempts.c.event_id == event.id)
    return fetch(connection, query.order_by(attempts.c.number), Attempt)


def _deliveries_of(connection: Connection, event: Event) -> list[DeliveryProgress]:
    query = select(*columns_of(DeliveryProgress, deliveries)).where(deliveries.c.event_id == event.id)
    return fetch(connection, query.order_by(deliveries.c.id), DeliveryProgress)


def gauges(connection: Connection) -> list[Gauge]:
    """The figures of every function and lane that has events queued or in flight."""
    queued, fed = _lengths(connection, "queued"), _lengths(connection, "fed")
    return [_gauge(*flow, queued.get(flow), fed.get(flow)) for flow in sorted(queued.keys() | fed.keys())]


def _gauge(function: str, lane: str, queued: QueueLength | None, fed: QueueLength | None) -> Gauge:
    return Gauge(
        function,
        lane,
        queued.count if queued is not None else 0,
        accepted_ms(queued.oldest_id) if queued is not None else None,
        fed.count if fed is not None else 0,
    )


def _lengths(connection: Connection, state: Literal["queued", "fed"]) -> dict[tuple[str, str], QueueLength]:
    table = _at(connection, f"events_{state}")
    query = f"SELECT function, lane, count(*), min(id) FROM {table} WHERE {_IN_STATE[state]} GROUP BY function, lane"  # noqa: S608
    return {(found.function, found.lane): found for found in fetch(connection, text(query), QueueLength)}


# --- finding ---


def find_event(connection: Connection, request_id: str) -> Event | None:
    """One event, or None when the ledger does not have it."""
    return fetch_one(connection, _EVENTS.where(events.c.request_id == request_id), Event)


def find_events(connection: Connection, filters: Filters, limit: int, before: int | None = None) -> list[Event]:
    """The newest events that match, of those whose id is below ``before`` if that is given."""
    if filters.state == "queued" and not filters.error and not _is_exact(filters.origin):
        few = _few_queued(connection, filters)
        if few is not None:
            return _rows(connection, filters, limit, 0, before, few)
    each = _by_name(connection, filters) if not _index(filters) else None
    if each is None:
        return _rows(connection, filters, limit, 0, before)
    found: list[Event] = []
    for one in each:
        after = found[-1].id if len(found) == limit else 0
        found = _newest([*found, *_rows(connection, one, limit, after, before)], limit)
    return found


def _newest(found: Iterable[Event], limit: int) -> list[Event]:
    return sorted(found, key=lambda event: -event.id)[:limit]


def _rows(
    connection: Connection,
    filters: Filters,
    limit: int,
    after: int,
    before: int | None,
    of: Sequence[int] | None = None,
) -> list[Event]:
    """The newest that match, read down one index or the ids themselves; or those of the ids ``of`` that match."""
    conditions, values = _conditions(filters, after, before)
    if of is not None:
        query = text(f"SELECT {_COLUMNS} FROM events WHERE id IN :ids AND {conditions}")  # noqa: S608 - words of ours
        query = query.bindparams(bindparam("ids", expanding=True))
        return _newest(fetch(connection, query, Event, {**values, "ids": of}), limit)
    table = _at(connection, _index(filters))
    query = text(f"SELECT {_COLUMNS} FROM {table} WHERE {conditions} ORDER BY id DESC LIMIT :limit")  # noqa: S608
    return fetch(connection, query, Event, {**values, "limit": limit})


def _index(filters: Filters) -> str:
    """Name of the index that leaves least to look through; empty when none has a column of the filters in front."""
    if filters.state == "fed":
        return "events_fed"
    if filters.error:
        return "events_error"
    if _is_exact(filters.origin):
        return "events_origin"
    if filters.state in {"failed", "cancelled"}:
        return "events_ended_badly"
    return "events_function" if filters.function else ""


def _at(connection: Connection, index: str) -> str:
    """``events`` with the index to go by: SQLite has no statistics and would rather sort; PostgreSQL has them, and no hints."""
    if connection.dialect.name != "sqlite":
        return "events"
    return f"events INDEXED BY {index}" if index else "events NOT INDEXED"


def _conditions(filters: Filters, after: int, before: int | None) -> tuple[str, dict[str, Any]]:
    """The conditions in SQL, and the values of their parameters."""
    since = first_of(filters.since_ms) if filters.since_ms is not None else 0
    until = first_of(filters.until_ms) if filters.until_ms is not None else None
    given: list[tuple[str, dict[str, Any]]] = [("id >= :since", {"since": max(since, after + 1)})]
    below = [number for number in (until, before) if number is not None]
    if below:
        given.append(("id < :below", {"below": min(below)}))
    if filters.state is not None:
        given.append((_IN_STATE[filters.state], {}))
    if filters.lane:
        given.append(("lane = :lane", {"lane": filters.lane}))
    if filters.error:
        given.append(("error_type <> '' AND error_type = :error", {"error": filters.error}))
    if _is_exact(filters.origin):
        given.append(("origin <> '' AND origin = :origin", {"origin": filters.origin}))
    elif filters.origin:
        low = filters.origin[:-1]
        given.append(("origin <> '' AND origin >= :low AND origin < :high", {"low": low, "high": low + _LAST}))
    given += _place(filters)
    return " AND ".join(condition for condition, _ in given), {name: one[name] for _, one in given for name in one}


def _place(filters: Filters) -> list[tuple[str, dict[str, Any]]]:
    if filters.function:
        name = key_text(FunctionKey(filters.account, filters.region, filters.function))
        return [("function = :function", {"function": name})]
    if filters.account:
        low = _beginning(filters)
        return [("function >= :first AND function < :last", {"first": low, "last": low + _LAST})]
    return [("function LIKE :region", {"region": f"%:{filters.region}:%"})] if filters.region else []


def _is_exact(origin: str) -> bool:
    return bool(origin) and not origin.endswith("*")


def _few_queued(connection: Connection, filters: Filters) -> Sequence[int] | None:
    """Ids of all queued events of the function, or of every function, by an index in another order; None when there are many."""
    (condition, values), *_ = _place(filters) if filters.function else [("function >= ''", {})]
    table = _at(connection, "events_queued")
    query = f"SELECT id FROM {table} WHERE {_IN_STATE['queued']} AND {condition} LIMIT :most"  # noqa: S608 - words of ours
    found = connection.execute(text(query), {**values, "most": _FEW + 1}).scalars().all()
    return found if len(found) <= _FEW else None


def _by_name(connection: Connection, filters: Filters) -> list[Filters] | None:
    """Filters for each of the names that are asked for by their beginning; None when none are, or too many."""
    if filters.origin:
        names = _names(connection, "origin", filters.origin.removesuffix("*"))
        return None if names is None else [replace(filters, origin=name) for name in names]
    if not filters.account and not filters.region:
        return None
    names = _names(connection, "function", _beginning(filters))
    if names is None:
        return None
    keys = [key_of(name) for name in names if _is_of(name, filters.account, filters.region)]
    return [replace(filters, account=key.account, region=key.region, function=key.name) for key in keys]


def _names(connection: Connection, column: str, low: str) -> list[str] | None:
    names = skip_scan("events", column, f"{column} < :high AND {column} <> ''", f"{column} >= :low")
    query = f"WITH RECURSIVE {names} SELECT name FROM names WHERE name IS NOT NULL LIMIT :most"  # noqa: S608 - words of ours
    values = {"low": low, "high": low + _LAST, "most": _NAMES + 1}
    found = connection.execute(text(query), values).scalars().all()
    return list(found) if len(found) <= _NAMES else None


def _beginning(filters: Filters) -> str:
    if not filters.account:
        return ""
    return f"{filters.account}:{filters.region}:" if filters.region else f"{filters.account}:"


def _is_of(function: str, account: str, region: str) -> bool:
    key = key_of(function)
    return account in {"", key.account} and region in {"", key.region}


# --- showing ---


def iso(at_ms: int) -> str | None:
    """A time in ms since 1970 as ISO 8601 in UTC; None for 0, which stands for never."""
    if not at_ms:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _summary(event: Event) -> dict[str, Any]:
    key = key_of(event.function)
    return {
        "request_id": event.request_id,
        "account": key.account,
        "region": key.region,
        "function": key.name,
        "qualifier": event.qualifier,
        "lane": event.lane,
        "state": event.state,
        "attempt": event.attempt,
        "accepted_at": iso(accepted_ms(event.id)),
        "due_at": iso(event.due_at) if event.state == "queued" else None,
        "ended_at": iso(event.ended_at),
        "condition": event.condition,
        "error_type": event.error_type,
        "error_message": event.error_message,
        "origin": event.origin,
        "parent": event.parent,
        "payload_size": event.size,
    }


def _payload(payload: bytes) -> dict[str, Any]:
    try:
        return {"payload": payload.decode(), "payload_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"payload": base64.b64encode(payload).decode(), "payload_encoding": "base64"}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "kind": attempt.kind,
        "started_at": iso(attempt.started_at),
        "ended_at": iso(attempt.ended_at),
        "duration_ms": attempt.ended_at - attempt.started_at,
        "worker": attempt.worker,
        "environment": attempt.environment,
        "version": attempt.version,
        "error_type": attempt.error_type,
        "error_message": attempt.error_message,
        "log_tail": attempt.log_tail.decode(errors="replace"),
        "result": attempt.result.decode(errors="replace"),
        "result_size": attempt.result_size,
        "result_truncated": attempt.result_size > len(attempt.result),
    }


def _delivery(delivery: DeliveryProgress) -> dict[str, Any]:
    return {
        "kind": delivery.kind,
        "target": delivery.target,
        "state": delivery.state,
        "tries": delivery.tries,
        "error": delivery.error,
        "due_at": iso(delivery.due_at) if delivery.state == "queued" else None,
        "ended_at": iso(delivery.ended_at),
    }
