"""Ends of attempts: recorded, decided on, and followed by what they cause, in one transaction.

An ending of an older attempt, or of an event that is not in flight any more, changes nothing: that is what makes every
message, outcome and look-after repeatable.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, select

from dispatcher.catalog.resolving import EventConfig, resolve
from dispatcher.ledger import consequences
from dispatcher.ledger.accepting import EventRow, key_of
from dispatcher.ledger.deciding import Decision, Standing, decide
from dispatcher.ledger.endings import Context, Ending, Settled
from dispatcher.ledger.ids import accepted_ms
from dispatcher.sql import hot
from dispatcher.sql.tables import attempts, events
from dispatcher.wire.errors import AwsError

#: What deciding needs of an event.
COLUMNS: Final = (
    events.c.id, events.c.request_id, events.c.function, events.c.qualifier, events.c.lane, events.c.size,
    events.c.due_at, events.c.attempt, events.c.tries, events.c.backoffs, events.c.crashes, events.c.trace_id,
)  # fmt: skip
_MESSAGE_CHARS: Final = 1024
#: It is in an index, and PostgreSQL's take no long ones.
_TYPE_CHARS: Final = 256
_ADD_ATTEMPTS: Final = hot.insert(*(attempts.name, *attempts.c.keys()))
_CHANGE_EVENTS: Final = hot.Hot(
    "UPDATE events SET state = :state, tries = :tries, backoffs = :backoffs, crashes = :crashes, due_at = :due_at, "
    "ended_at = :ended_at, condition = :condition, error_type = :error_type, error_message = :error_message "
    "WHERE id = :event"
)


def settle(connection: Connection, endings: Sequence[Ending], context: Context) -> list[Settled]:
    """Apply them; what is too late is left out of the answer."""
    query = select(*COLUMNS).where(
        events.c.request_id.in_([ending.request_id for ending in endings]), events.c.state == "fed"
    )
    if connection.dialect.name == "postgresql":
        query = query.with_for_update()
    found = {row.request_id: row for row in connection.execute(query)}
    changes = _Changes(connection, context)
    settled: list[Settled] = []
    for ending in endings:
        row = found.get(ending.request_id)
        if row is not None and row.attempt == ending.attempt:
            del found[ending.request_id]
            settled.append(changes.settle(row, ending))
    changes.write()
    return settled


def end(
    connection: Connection,
    rows: Sequence[EventRow],
    condition: str,
    error_type: str,
    message: str,
    now_ms: int,
    context: Context,
) -> list[Settled]:
    """End queued events without an attempt. Without ``condition`` it is nothing AWS has a word for."""
    changes = _Changes(connection, context)
    settled = [changes.end(row, condition, error_type, message, now_ms) for row in rows]
    changes.write()
    return settled


class _Changes:
    """Collected, then written with one statement each."""

    def __init__(self, connection: Connection, context: Context) -> None:
        self._connection = connection
        self._context = context
        self._configs: dict[tuple[str, str], EventConfig] = {}
        self._events: list[dict[str, Any]] = []
        self._attempts: list[dict[str, Any]] = []

    def settle(self, row: EventRow, ending: Ending) -> Settled:
        context = self._context
        config = self._config(row)
        standing = Standing(accepted_ms(row.id), row.tries, row.backoffs, row.crashes)
        decision = decide(standing, ending.kind, config, context.clock.now_ms(), context.clock, context.retry_base_s)
        self._attempts.append(
            {
                "event_id": row.id, "number": ending.attempt, "kind": ending.kind, "started_at": ending.started_ms,
                "ended_at": ending.ended_ms, "worker": ending.worker, "environment": ending.environment,
                "version": ending.version, "error_type": ending.error_type[:_TYPE_CHARS],
                "error_message": ending.error_message[:_MESSAGE_CHARS], "log_tail": ending.log_tail,
                "result": ending.result[: context.result_bytes], "result_size": len(ending.result),
            }
        )  # fmt: skip
        return self._go_on(row, decision, config, ending, ending.ended_ms)

    def end(self, row: EventRow, condition: str, error_type: str, message: str, now_ms: int) -> Settled:
        decision = Decision("failed", row.tries, row.backoffs, row.crashes, condition=condition)
        error = Ending(
            row.request_id,
            row.attempt,
            "lost",
            now_ms,
            now_ms,
            error_type=error_type or condition,
            error_message=message,
        )
        return self._go_on(row, decision, self._config(row), error, now_ms, attempted=False)

    def _go_on(
        self,
        row: EventRow,
        decision: Decision,
        config: EventConfig,
        ending: Ending,
        ended_ms: int,
        *,
        attempted: bool = True,
    ) -> Settled:
        over = decision.state != "queued"
        self._events.append(
            {
                "event": row.id, "state": decision.state, "tries": decision.tries, "backoffs": decision.backoffs,
                "crashes": decision.crashes, "due_at": decision.due_ms, "ended_at": ended_ms if over else 0,
                "condition": decision.condition, "error_type": ending.error_type[:_TYPE_CHARS],
                "error_message": ending.error_message[:_MESSAGE_CHARS],
            }
        )  # fmt: skip
        made = (
            consequences.follow(
                self._connection,
                row,
                decision,
                config,
                ending if attempted else None,
                self._context,
                ending.error_message,
            )
            if over
            else None
        )
        return Settled(
            row.request_id,
            row.function,
            row.lane,
            ending.kind if attempted else None,
            decision.state,
            decision.condition,
            made is not None,
            made or "",
        )

    def _config(self, row: EventRow) -> EventConfig:
        """As it stands now, read once for all events of a function and qualifier."""
        name = (row.function, row.qualifier)
        found = self._configs.get(name)
        if found is None:
            try:
                found = resolve(self._connection, key_of(row.function), row.qualifier or None).main.event_config
            except AwsError:
                found = EventConfig()  # it was deleted, with its configuration
            self._configs[name] = found
        return found

    def write(self) -> None:
        _ADD_ATTEMPTS(self._connection, self._attempts)
        _CHANGE_EVENTS(self._connection, self._events)
