"""Deliveries: what must reach a destination or a dead-letter queue, tried until it did or never will."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, cast

from sqlalchemy import Connection, bindparam, select, update

from dispatcher.clock import Clock
from dispatcher.ledger.following import function_arn
from dispatcher.ledger.ids import accepted_ms
from dispatcher.sql.tables import deliveries, events

Kind = Literal["destination", "dead-letter"]

#: A delivery that is under way belongs to whoever took it; a dispatcher that died with it holds it up for so long.
_TAKEN_S: Final = 60.0
_LONGEST_BACKOFF_S: Final = 300.0
_ERROR_CHARS: Final = 1024
#: As long as AWS keeps an event by default.
_GIVE_UP_S: Final = 21_600.0


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
    function_arn: str
    success: bool
    trace_id: str


def take(connection: Connection, now_ms: int, most: int, without: Sequence[str] = ()) -> list[Due]:
    """The deliveries that are due but to the targets ``without``; nobody else is given them for a minute."""
    query = (
        select(
            deliveries,
            events.c.request_id,
            events.c.function,
            events.c.qualifier,
            events.c.condition,
            events.c.trace_id,
        )
        .join(events, events.c.id == deliveries.c.event_id)
        .where(deliveries.c.state == "queued", deliveries.c.due_at <= now_ms, deliveries.c.target.not_in(list(without)))
        .order_by(deliveries.c.due_at)
        .limit(most)
    )
    if connection.dialect.name == "postgresql":
        query = query.with_for_update(skip_locked=True, of=deliveries)
    rows = connection.execute(query).all()
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
            function_arn=function_arn(row.function, row.qualifier),
            success=row.condition == "Success",
            trace_id=row.trace_id,
        )
        for row in rows
    ]


def next_due(connection: Connection, without: Sequence[str] = ()) -> int | None:
    """When the next one is due, in ms since 1970, but to the targets ``without``; None when there is none."""
    return connection.execute(
        select(deliveries.c.due_at)
        .where(deliveries.c.state == "queued", deliveries.c.target.not_in(list(without)))
        .order_by(deliveries.c.due_at)
        .limit(1)
    ).scalar_one_or_none()


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
