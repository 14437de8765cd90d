"""Deliveries: what must reach a destination or a dead-letter queue, tried until it did or never will."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, cast

from sqlalchemy import Connection, bindparam, select, text, update

from dispatcher.clock import Clock
from dispatcher.ledger.consequences import function_arn
from dispatcher.ledger.ids import accepted_ms
from dispatcher.ledger.rows import DeliveryToTry, WaitingTarget
from dispatcher.sql.skip_scan import skip_scan
from dispatcher.sql.tables import deliveries, events
from dispatcher.sql.typed_rows import fetch

Kind = Literal["destination", "dead-letter"]

#: How long a delivery under way belongs to whoever claimed it. After a dispatcher died with it, it waits until then.
_CLAIM_S: Final = 60.0
_LONGEST_BACKOFF_S: Final = 300.0
_ERROR_CHARS: Final = 1024
#: How long a delivery is tried, which is as long as AWS keeps an event by default.
_MAXIMUM_AGE_S: Final = 21_600.0
#: The most deliveries under way to one service (of which there are four), and to one target.
_TO_SERVICE: Final = 8
_TO_TARGET: Final = 4
#: Spelt like the condition of the index, by which SQLite finds it.
_QUEUED: Final = "state = 'queued'"
#: Target by target through the index. What waits for a target that hangs, a million deliveries perhaps, is not touched.
_WAITING: Final = text(
    f"WITH RECURSIVE {skip_scan('deliveries', 'target', _QUEUED)} "  # noqa: S608 - words of ours
    f"SELECT target, due_at FROM (SELECT name AS target, (SELECT min(due_at) FROM deliveries WHERE {_QUEUED} "
    "AND deliveries.target = names.name) AS due_at FROM names WHERE name IS NOT NULL) AS found "
    "WHERE due_at IS NOT NULL ORDER BY due_at"
)


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery to be tried now."""

    id: int
    event_id: int
    kind: Kind
    target: str
    body: bytes = field(repr=False)
    attributes: dict[str, str] = field(repr=False)
    tries: int
    """How many tries there are, this one included."""
    request_id: str
    """The event's request id; its function (``account:region:name``) and lane are next."""
    function: str
    lane: str
    function_arn: str
    success: bool
    trace_id: str


class Room:
    """How many more deliveries may begin. A target that hangs delays no other of its service, nor a service another."""

    def __init__(self, under_way: Iterable[str]) -> None:
        """``under_way`` has the target of each delivery under way."""
        self._targets = Counter(under_way)
        self._services = Counter(_service(target) for target in self._targets.elements())

    def left(self, target: str) -> int:
        """How many more deliveries to this target may begin."""
        return min(_TO_TARGET - self._targets[target], _TO_SERVICE - self._services[_service(target)])

    def under_way(self, target: str) -> int:
        """How many deliveries to this target are under way."""
        return self._targets[target]

    def occupy(self, target: str, count: int) -> None:
        """Count deliveries to this target that begin."""
        self._targets[target] += count
        self._services[_service(target)] += count


def _service(target: str) -> str:
    parts = target.split(":", 3)
    return parts[2] if len(parts) > 2 else ""


def claim_due(connection: Connection, now_ms: int, room: Room) -> list[Due]:
    """Claim deliveries that are due, as many as there is room for; nobody else is given them for a minute.

    Those whose target has the fewest under way come first, and among them what has waited for longest.
    """
    rows: list[DeliveryToTry] = []
    for waiting in sorted(_waiting_targets(connection), key=lambda found: room.under_way(found.target)):
        if waiting.due_at <= now_ms and (limit := room.left(waiting.target)) > 0:
            found = _due(connection, waiting.target, now_ms, limit)
            room.occupy(waiting.target, len(found))
            rows += found
    if rows:
        connection.execute(
            update(deliveries).where(deliveries.c.id == bindparam("delivery")),
            [{"delivery": row.id, "due_at": now_ms + int(_CLAIM_S * 1000), "tries": row.tries + 1} for row in rows],
        )
    return [
        Due(
            id=row.id,
            event_id=row.event_id,
            kind=cast("Kind", row.kind),
            target=row.target,
            body=row.body,
            attributes=json.loads(row.attributes),
            tries=row.tries + 1,
            request_id=row.request_id,
            function=row.function,
            lane=row.lane,
            function_arn=function_arn(row.function, row.qualifier),
            success=row.condition == "Success",
            trace_id=row.trace_id,
        )
        for row in rows
    ]


def next_due(connection: Connection, room: Room) -> int | None:
    """When the next delivery is due to a target that has room, in ms since 1970; None when there is none."""
    return next((found.due_at for found in _waiting_targets(connection) if room.left(found.target) > 0), None)


def _waiting_targets(connection: Connection) -> list[WaitingTarget]:
    """Each target that has something queued; what is due first comes first."""
    return fetch(connection, _WAITING, WaitingTarget)


def _due(connection: Connection, target: str, now_ms: int, most: int) -> list[DeliveryToTry]:
    query = (
        select(
            deliveries.c.id,
            deliveries.c.event_id,
            deliveries.c.kind,
            deliveries.c.target,
            deliveries.c.body,
            deliveries.c.attributes,
            deliveries.c.tries,
            events.c.request_id,
            events.c.function,
            events.c.lane,
            events.c.qualifier,
            events.c.condition,
            events.c.trace_id,
        )
        .join(events, events.c.id == deliveries.c.event_id)
        .where(deliveries.c.state == "queued", deliveries.c.target == target, deliveries.c.due_at <= now_ms)
        .order_by(deliveries.c.due_at)
        .limit(most)
    )
    if connection.dialect.name == "postgresql":
        query = query.with_for_update(skip_locked=True, of=deliveries)
    return fetch(connection, query, DeliveryToTry)


def record_success(connection: Connection, done: Sequence[int], now_ms: int) -> None:
    """Record that these deliveries arrived."""
    connection.execute(
        update(deliveries).where(deliveries.c.id.in_(done)).values(state="delivered", ended_at=now_ms, error="")
    )


def record_failure(connection: Connection, due: Due, error: str, clock: Clock, *, final: bool) -> bool:
    """Record that a delivery did not arrive; answers whether it is not tried again.

    Then its event has failed, however its attempts ended, and shows why. ``final`` says that another try would fail too.
    """
    error = error[:_ERROR_CHARS]
    now_ms = clock.now_ms()
    abandoned = final or now_ms - accepted_ms(due.id) > clock.span_ms(_MAXIMUM_AGE_S)
    wait_s = min(2.0 ** (due.tries - 1), _LONGEST_BACKOFF_S)
    change = (
        {"state": "failed", "ended_at": now_ms, "error": error}
        if abandoned
        else {"due_at": now_ms + clock.span_ms(wait_s), "error": error}
    )
    connection.execute(update(deliveries).where(deliveries.c.id == due.id).values(**change))
    if abandoned:
        word = "DeadLetter" if due.kind == "dead-letter" else "Destination"
        connection.execute(
            update(events)
            .where(events.c.id == due.event_id)
            .values(state="failed", error_type=f"{word}DeliveryFailed", error_message=f"{due.target}: {error}")
        )
    return abandoned
