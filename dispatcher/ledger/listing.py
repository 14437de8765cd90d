"""Looking at the ledger. Nothing here reads through all of it: every filter has an index, or an end of one, to begin at.

The newest come first, and that is the order of the ids, which the indexes have behind their own column. What is asked for
by the beginning of a name (all functions of an account, all replays) is looked up name by name, skipping from one to the next.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

from sqlalchemy import ColumnElement, Connection, Select, func, literal_column, select, text

from dispatcher.catalog.rows import FunctionKey
from dispatcher.ledger.accepting import EventRow, key_of, key_text
from dispatcher.ledger.ids import accepted_ms, first_of
from dispatcher.sql.tables import attempts, deliveries, events, payloads

State = Literal["queued", "fed", "succeeded", "failed", "cancelled"]
STATES: Final[tuple[State, ...]] = get_args(State)

#: So many queued events are sorted here; of more than that the newest are near the end of the ledger.
_FEW: Final = 2000
#: So many names with the same beginning are looked up one by one.
_NAMES: Final = 2000
#: Sorts behind everything that begins like what stands before it.
_LAST: Final = "\U0010ffff"
_EMPTY: Final[ColumnElement[str]] = literal_column("''")
#: Name by name through an index, without touching the rows between.
_SKIP: Final = (
    "WITH RECURSIVE names(name) AS ("
    "SELECT min({column}) FROM events WHERE {column} >= :low AND {column} < :high AND {column} <> '' UNION ALL "
    "SELECT (SELECT min({column}) FROM events WHERE {column} > names.name AND {column} < :high AND {column} <> '') "
    "FROM names WHERE names.name IS NOT NULL) "
    "SELECT name FROM names WHERE name IS NOT NULL LIMIT :most"
)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which events; what is empty or ``None`` does not matter."""

    account: str = ""
    region: str = ""
    function: str = ""
    """A name; it needs account and region."""
    state: State | None = None
    since_ms: int | None = None
    """Accepted then or later."""
    until_ms: int | None = None
    """Accepted before."""
    error: str = ""
    """The error's type."""
    origin: str = ""
    """Exactly, or what begins like it when it ends with ``*``."""
    lane: str = ""


@dataclass(frozen=True, slots=True)
class Gauge:
    """What waits and runs of one function (``account:region:name``) in one lane."""

    function: str
    lane: str
    queued: int
    oldest_ms: int | None
    """When the queued event was accepted that waits for longest."""
    fed: int


def list_events(connection: Connection, filters: Filters, limit: int) -> list[dict[str, Any]]:
    """The newest events that match, as JSON objects without payloads, attempts and deliveries."""
    return [_summary(row) for row in find(connection, filters, limit)]


def get(connection: Connection, account: str, region: str, request_id: str) -> dict[str, Any] | None:
    """Everything about one event as a JSON object. Account and region may be empty."""
    row = connection.execute(select(events).where(events.c.request_id == request_id)).one_or_none()
    if row is None or not _is_of(row.function, account, region):
        return None
    payload = connection.execute(select(payloads.c.payload).where(payloads.c.event_id == row.id)).scalar_one_or_none()
    tries = connection.execute(select(attempts).where(attempts.c.event_id == row.id).order_by(attempts.c.number))
    sent = connection.execute(select(deliveries).where(deliveries.c.event_id == row.id).order_by(deliveries.c.id))
    return {
        **_summary(row),
        "trace_id": row.trace_id,
        "mode": row.mode,
        "fed_at": iso(row.fed_at),
        **_payload(bytes(payload or b"")),
        "attempts": [_attempt(attempt) for attempt in tries],
        "deliveries": [_delivery(delivery) for delivery in sent],
    }


def gauges(connection: Connection) -> list[Gauge]:
    """Of every function and lane that has events queued or in flight."""
    queued, fed = _counted(connection, "queued"), _counted(connection, "fed")
    found = []
    for function, lane in sorted(queued.keys() | fed.keys()):
        count, oldest_ms = queued.get((function, lane), (0, None))
        found.append(Gauge(function, lane, count, oldest_ms, fed.get((function, lane), (0, None))[0]))
    return found


def _counted(connection: Connection, state: State) -> dict[tuple[str, str], tuple[int, int | None]]:
    query = (
        select(events.c.function, events.c.lane, func.count().label("events"), func.min(events.c.id).label("oldest"))
        .where(_in_state(state))
        .group_by(events.c.function, events.c.lane)
    )
    return {(row.function, row.lane): (row.events, accepted_ms(row.oldest)) for row in connection.execute(query)}


# --- finding ---


def find(connection: Connection, filters: Filters, limit: int, before: int | None = None) -> list[EventRow]:
    """Rows of ``events``: the newest that match, of those whose id is below ``before`` if that is given."""
    if filters.state == "queued" and not filters.error and not _is_exact(filters.origin):
        few = _few_queued(connection, filters)
        if few is not None:
            query = _at(select(events).where(events.c.id.in_(few), *_conditions(filters, 0, before)), "")
            return sorted(connection.execute(query).all(), key=lambda row: -row.id)[:limit]
    each = _by_name(connection, filters) if not _index(filters) else None
    if each is None:
        return _walk(connection, filters, limit, 0, before)
    found: list[EventRow] = []
    for one in each:
        after = found[-1].id if len(found) == limit else 0
        found += _walk(connection, one, limit, after, before)
        found = sorted(found, key=lambda row: -row.id)[:limit]
    return found


def _walk(connection: Connection, filters: Filters, limit: int, after: int, before: int | None) -> list[EventRow]:
    """Down one index, or the ids themselves, to the first that match."""
    query = select(events).where(*_conditions(filters, after, before)).order_by(events.c.id.desc()).limit(limit)
    return list(connection.execute(_at(query, _index(filters))).all())


def _index(filters: Filters) -> str:
    """The one that leaves least to look through; empty: none has the filter's column in front."""
    if filters.state == "fed":
        return "events_fed"
    if filters.error:
        return "events_error"
    if _is_exact(filters.origin):
        return "events_origin"
    if filters.state in {"failed", "cancelled"}:
        return "events_ended_badly"
    return "events_function" if filters.function else ""


def _at(query: "Select[Any]", index: str) -> "Select[Any]":
    """SQLite has no statistics to choose by, and would rather sort. PostgreSQL has them, and no hints."""
    return query.with_hint(events, f"INDEXED BY {index}" if index else "NOT INDEXED", "sqlite")


def _conditions(filters: Filters, after: int, before: int | None) -> Iterable[ColumnElement[bool]]:
    since = first_of(filters.since_ms) if filters.since_ms is not None else 0
    yield events.c.id >= max(since, after + 1)
    if filters.until_ms is not None:
        yield events.c.id < first_of(filters.until_ms)
    if before is not None:
        yield events.c.id < before
    if filters.state is not None:
        yield _in_state(filters.state)
    if filters.lane:
        yield events.c.lane == filters.lane
    yield from _name_conditions(filters)


def _name_conditions(filters: Filters) -> Iterable[ColumnElement[bool]]:
    # The first condition of two is that of the index, spelt out as in _in_state.
    if filters.error:
        yield events.c.error_type != _EMPTY
        yield events.c.error_type == filters.error
    if filters.origin:
        yield events.c.origin != _EMPTY
        low = filters.origin.removesuffix("*")
        yield events.c.origin == low if _is_exact(filters.origin) else events.c.origin.between(low, low + _LAST)
    if filters.function:
        yield events.c.function == key_text(FunctionKey(filters.account, filters.region, filters.function))
    elif filters.account:
        low = _beginning(filters)
        yield events.c.function.between(low, low + _LAST)
    elif filters.region:
        yield events.c.function.like(f"%:{filters.region}:%")


def _in_state(state: State) -> ColumnElement[bool]:
    # Spelt out, since an index over some of the rows is found by the words of its condition.
    return events.c.state == literal_column(f"'{state}'")


def _is_exact(origin: str) -> bool:
    return bool(origin) and not origin.endswith("*")


def _few_queued(connection: Connection, filters: Filters) -> list[int] | None:
    """All that are queued of the function, or of all, by the index that is in another order; ``None``: too many."""
    query = select(events.c.id).where(_in_state("queued")).limit(_FEW + 1)
    if filters.function:
        query = query.where(*_name_conditions(Filters(filters.account, filters.region, filters.function)))
    query = query.with_hint(events, "INDEXED BY events_queued", "sqlite")
    found = connection.execute(query).scalars().all()
    return list(found) if len(found) <= _FEW else None


def _by_name(connection: Connection, filters: Filters) -> list[Filters] | None:
    """One for each of the names that are asked for by their beginning; ``None``: none are, or there are too many."""
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
    most = {"low": low, "high": low + _LAST, "most": _NAMES + 1}
    found = connection.execute(text(_SKIP.format(column=column)), most).scalars().all()
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
    """ISO 8601 in UTC; ``None`` for 0, which stands for never."""
    if not at_ms:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _summary(row: EventRow) -> dict[str, Any]:
    key = key_of(row.function)
    return {
        "request_id": row.request_id,
        "account": key.account,
        "region": key.region,
        "function": key.name,
        "qualifier": row.qualifier,
        "lane": row.lane,
        "state": row.state,
        "attempt": row.attempt,
        "accepted_at": iso(accepted_ms(row.id)),
        "due_at": iso(row.due_at) if row.state == "queued" else None,
        "ended_at": iso(row.ended_at),
        "condition": row.condition,
        "error_type": row.error_type,
        "error_message": row.error_message,
        "origin": row.origin,
        "parent": row.parent,
        "payload_size": row.size,
    }


def _payload(payload: bytes) -> dict[str, Any]:
    try:
        return {"payload": payload.decode(), "payload_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"payload": base64.b64encode(payload).decode(), "payload_encoding": "base64"}


def _attempt(row: EventRow) -> dict[str, Any]:
    result = bytes(row.result)
    return {
        "number": row.number,
        "kind": row.kind,
        "started_at": iso(row.started_at),
        "ended_at": iso(row.ended_at),
        "duration_ms": row.ended_at - row.started_at,
        "worker": row.worker,
        "environment": row.environment,
        "version": row.version,
        "error_type": row.error_type,
        "error_message": row.error_message,
        "log_tail": bytes(row.log_tail).decode(errors="replace"),
        "result": result.decode(errors="replace"),
        "result_size": row.result_size,
        "result_truncated": row.result_size > len(result),
    }


def _delivery(row: EventRow) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "target": row.target,
        "state": row.state,
        "tries": row.tries,
        "error": row.error,
        "due_at": iso(row.due_at) if row.state == "queued" else None,
        "ended_at": iso(row.ended_at),
    }
