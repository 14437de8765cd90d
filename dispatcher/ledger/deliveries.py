"""Deliveries: what must reach a destination or a dead-letter queue, tried until it did or never will."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from sqlalchemy import Connection, Row, bindparam, select, text, update

from dispatcher.clock import Clock
from dispatcher.ledger.consequences import function_arn
from dispatcher.ledger.ids import accepted_ms
from dispatcher.sql.tables import deliveries, events

Kind = Literal["destination", "dead-letter"]

#: A delivery that is under way belongs to whoever took it; a dispatcher that died with it holds it up for so long.
_TAKEN_S: Final = 60.0
_LONGEST_BACKOFF_S: Final = 300.0
_ERROR_CHARS: Final = 1024
#: As long as AWS keeps an event by default.
_GIVE_UP_S: Final = 21_600.0
#: Under way at a time. There are four services.
_TO_SERVICE: Final = 8
_TO_TARGET: Final = 4
#: Target by target through the index: what waits for one that hangs, a million perhaps, is not touched.
_WAITING: Final = text(
    "WITH RECURSIVE waiting(target) AS (SELECT min(target) FROM deliveries WHERE state = 'queued' UNION ALL "
    "SELECT (SELECT min(target) FROM deliveries WHERE state = 'queued' AND target > waiting.target) "
    "FROM waiting WHERE waiting.target IS NOT NULL) "
    "SELECT target, due_at FROM (SELECT target, (SELECT min(due_at) FROM deliveries WHERE state = 'queued' "
    "AND deliveries.target = waiting.target) AS due_at FROM waiting WHERE target IS NOT NULL) AS found "
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
    """This one included."""
    request_id: str
    function: str
    """As the ledger has it, and its lane."""
    lane: str
    function_arn: str
    success: bool
    trace_id: str


class Room:
    """How many more deliveries may begin. One target that hangs holds up no other of its service, and no service another."""

    def __init__(self, under_way: Iterable[str]) -> None:
        """``under_way``: the target of each."""
        self._targets = Counter(under_way)
        self._services = Counter(_service(target) for target in self._targets.elements())

    def of(self, target: str) -> int:
        """So many to this one."""
        return min(_TO_TARGET - self._targets[target], _TO_SERVICE - self._services[_service(target)])

    def under_way(self, target: str) -> int:
        """So many to this one have begun."""
        return self._targets[target]

    def take(self, target: str, count: int) -> None:
        """They begin."""
        self._targets[target] += count
        self._services[_service(target)] += count


def _service(target: str) -> str:
    parts = target.split(":", 3)
    return parts[2] if len(parts) > 2 else ""


def take(connection: Connection, now_ms: int, room: Room) -> list[Due]:
    """Deliveries that are due, as many as there is room for; nobody else is given them for a minute.

    Those whose target has the fewest under way come first, and among them what has waited for longest.
    """
    rows: list[Row[Any]] = []
    for target, due_at in sorted(_targets(connection), key=lambda found: room.under_way(found[0])):
        if due_at <= now_ms and (limit := room.of(target)) > 0:
            found = _due(connection, target, now_ms, limit)
            room.take(target, len(found))
            rows += found
    if rows:
        connection.execute(
            update(deliveries).where(deliveries.c.id == bindparam("delivery")),
            [{"delivery": row.id, "due_at": now_ms + int(_TAKEN_S * 1000), "tries": row.tries + 1} for row in rows],
        )
    return [
        Due(
            id=row.id,
            event_id=row.event_id,
            kind=cast("Kind", row.kind),
            target=row.target,
            body=bytes(row.body),
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
    """When the next one is due for whose target there is room, in ms since 1970; None when there is none."""
    return next((due_at for target, due_at in _targets(connection) if room.of(target) > 0), None)


def _targets(connection: Connection) -> list[tuple[str, int]]:
    """Each target that has something queued, and when its first is due; what is due first comes first."""
    return [(row.target, row.due_at) for row in connection.execute(_WAITING)]


def _due(connection: Connection, target: str, now_ms: int, most: int) -> Sequence[Row[Any]]:
    query = (
        select(
            deliveries,
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
    return connection.execute(query).all()


def delivered(connection: Connection, done: Sequence[int], now_ms: int) -> None:
    """They arrived."""
    connection.execute(
        update(deliveries).where(deliveries.c.id.in_(done)).values(state="delivered", ended_at=now_ms, error="")
    )


def failed(connection: Connection, due: Due, error: str, clock: Clock, *, final: bool) -> bool:
    """It did not arrive; whether it is given up. Then its event has failed, whatever it did itself, and shows why."""
    error = error[:_ERROR_CHARS]
    now_ms = clock.now_ms()
    give_up = final or now_ms - accepted_ms(due.id) > clock.span_ms(_GIVE_UP_S)
    wait_s = min(2.0 ** (due.tries - 1), _LONGEST_BACKOFF_S)
    change = (
        {"state": "failed", "ended_at": now_ms, "error": error}
        if give_up
        else {"due_at": now_ms + clock.span_ms(wait_s), "error": error}
    )
    connection.execute(update(deliveries).where(deliveries.c.id == due.id).values(**change))
    if give_up:
        word = "DeadLetter" if due.kind == "dead-letter" else "Destination"
        connection.execute(
            update(events)
            .where(events.c.id == due.event_id)
            .values(state="failed", error_type=f"{word}DeliveryFailed", error_message=f"{due.target}: {error}")
        )
    return give_up
