"""Looking at the ledger. Nothing here reads through all of it: every filter has an index, or an end of one, to begin at.

The newest come first, and that is the order of the ids, which the indexes have behind their own column. What is asked for
by the beginning of a name (all functions of an account, all replays) is looked up name by name, skipping from one to the next.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

from sqlalchemy import Connection, bindparam, select, text

from dispatcher.catalog.rows import FunctionKey
from dispatcher.ledger.accepting import EventRow, key_of, key_text
from dispatcher.ledger.ids import accepted_ms, first_of
from dispatcher.sql.tables import attempts, deliveries, events, payloads

State = Literal["queued", "fed", "succeeded", "failed", "cancelled"]
STATES: Final[tuple[State, ...]] = get_args(State)

_COLUMNS: Final = ", ".join(events.c.keys())
#: Spelt out, and with the condition of the index word for word: SQLite finds an index over some of the rows by that only.
_IN_STATE: Final[dict[State, str]] = {
    "queued": "state = 'queued'",
    "fed": "state = 'fed'",
    "succeeded": "state = 'succeeded'",
    "failed": "state IN ('failed', 'cancelled') AND state = 'failed'",
    "cancelled": "state IN ('failed', 'cancelled') AND state = 'cancelled'",
}
#: So many queued events are sorted here; of more than that the newest are near the end of the ledger.
_FEW: Final = 2000
#: So many names with the same beginning are looked up one by one.
_NAMES: Final = 2000
#: Sorts behind everything that begins like what stands before it.
_LAST: Final = "\U0010ffff"
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


def _counted(connection: Connection, state: Literal["queued", "fed"]) -> dict[tuple[str, str], tuple[int, int | None]]:
    table = _at(connection, f"events_{state}")
    query = f"SELECT function, lane, count(*), min(id) FROM {table} WHERE {_IN_STATE[state]} GROUP BY function, lane"  # noqa: S608
    rows = connection.execute(text(query))
    return {(function, lane): (count, accepted_ms(oldest)) for function, lane, count, oldest in rows}


# --- finding ---


def find(connection: Connection, filters: Filters, limit: int, before: int | None = None) -> list[EventRow]:
    """Rows of ``events``: the newest that match, of those whose id is below ``before`` if that is given."""
    if filters.state == "queued" and not filters.error and not _is_exact(filters.origin):
        few = _few_queued(connection, filters)
        if few is not None:
            return _rows(connection, filters, limit, 0, before, few)
    each = _by_name(connection, filters) if not _index(filters) else None
    if each is None:
        return _rows(connection, filters, limit, 0, before)
    found: list[EventRow] = []
    for one in each:
        after = found[-1].id if len(found) == limit else 0
        found += _rows(connection, one, limit, after, before)
        found = sorted(found, key=lambda row: -row.id)[:limit]
    return found


def _rows(
    connection: Connection,
    filters: Filters,
    limit: int,
    after: int,
    before: int | None,
    of: Sequence[int] | None = None,
) -> list[EventRow]:
    """Down one index, or the ids themselves, to the first that match; or those of these ids that do."""
    conditions, values = _conditions(filters, after, before)
    if of is not None:
        query = text(f"SELECT {_COLUMNS} FROM events WHERE id IN :ids AND {conditions}")  # noqa: S608 - words of ours
        query = query.bindparams(bindparam("ids", expanding=True))
        return sorted(connection.execute(query, {**values, "ids": of}).all(), key=lambda row: -row.id)[:limit]
    table = _at(connection, _index(filters))
    query = text(f"SELECT {_COLUMNS} FROM {table} WHERE {conditions} ORDER BY id DESC LIMIT :limit")  # noqa: S608
    return list(connection.execute(query, {**values, "limit": limit}).all())


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


def _at(connection: Connection, index: str) -> str:
    """SQLite has no statistics to choose by, and would rather sort. PostgreSQL has them, and no hints."""
    if connection.dialect.name != "sqlite":
        return "events"
    return f"events INDEXED BY {index}" if index else "events NOT INDEXED"


def _conditions(filters: Filters, after: int, before: int | None) -> tuple[str, dict[str, Any]]:
    """SQL, and the values of its parameters."""
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
    """All that are queued of the function, or of all, by the index that is in another order; ``None``: too many."""
    (condition, values), *_ = _place(filters) if filters.function else [("function >= ''", {})]
    table = _at(connection, "events_queued")
    query = f"SELECT id FROM {table} WHERE {_IN_STATE['queued']} AND {condition} LIMIT :most"  # noqa: S608 - words of ours
    found = connection.execute(text(query), {**values, "most": _FEW + 1}).scalars().all()
    return found if len(found) <= _FEW else None


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
