"""Ends of attempts: recorded, decided on, and followed by their consequences, in one transaction.

An ending of an older attempt, or of an event that is not in flight any more, changes nothing. That is what makes every
message, every outcome and every rescue repeatable.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, select

from dispatcher.catalog.resolving import EventConfig, resolve
from dispatcher.ledger.accepting import key_of
from dispatcher.ledger.consequences import record_consequences
from dispatcher.ledger.deciding import Decision, Standing, decide
from dispatcher.ledger.endings import Context, Ending, Settled
from dispatcher.ledger.ids import accepted_ms
from dispatcher.ledger.rows import OpenEvent
from dispatcher.sql import hot
from dispatcher.sql.tables import attempts, events
from dispatcher.sql.typed_rows import columns_of, fetch
from dispatcher.wire.errors import AwsError

_MESSAGE_CHARS: Final = 1024
#: An error's type is in an index, and PostgreSQL's take no long values.
_TYPE_CHARS: Final = 256
_IN_FLIGHT: Final = select(*columns_of(OpenEvent, events)).where(events.c.state == "fed")
_ADD_ATTEMPTS: Final = hot.insert(*(attempts.name, *attempts.c.keys()))
_CHANGE_EVENTS: Final = hot.HotStatement(
    "UPDATE events SET state = :state, tries = :tries, backoffs = :backoffs, crashes = :crashes, due_at = :due_at, "
    "ended_at = :ended_at, condition = :condition, error_type = :error_type, error_message = :error_message "
    "WHERE id = :event"
)


def settle(connection: Connection, endings: Sequence[Ending], context: Context) -> list[Settled]:
    """Apply the endings; what comes too late is left out of the answer."""
    query = _IN_FLIGHT.where(events.c.request_id.in_([ending.request_id for ending in endings]))
    if connection.dialect.name == "postgresql":
        query = query.with_for_update()
    in_flight = {event.request_id: event for event in fetch(connection, query, OpenEvent)}
    changes = _Changes(connection, context)
    settled: list[Settled] = []
    for ending in endings:
        event = in_flight.get(ending.request_id)
        if event is not None and event.attempt == ending.attempt:
            del in_flight[ending.request_id]
            settled.append(changes.settle(event, ending))
    changes.write()
    return settled


def end_without_attempt(
    connection: Connection,
    queued: Sequence[OpenEvent],
    condition: str,
    error_type: str,
    message: str,
    now_ms: int,
    context: Context,
) -> list[Settled]:
    """End queued events that may not run. ``condition`` is empty where AWS has no word for the reason."""
    changes = _Changes(connection, context)
    settled = [changes.end_without_attempt(event, condition, error_type, message, now_ms) for event in queued]
    changes.write()
    return settled


class _Changes:
    """Changes of one transaction: collected, then written with one statement for each table."""

    def __init__(self, connection: Connection, context: Context) -> None:
        self._connection = connection
        self._context = context
        self._configs: dict[tuple[str, str], EventConfig] = {}
        self._events: list[dict[str, Any]] = []
        self._attempts: list[dict[str, Any]] = []

    def settle(self, event: OpenEvent, ending: Ending) -> Settled:
        context = self._context
        config = self._config(event)
        standing = Standing(accepted_ms(event.id), event.tries, event.backoffs, event.crashes)
        decision = decide(standing, ending.kind, config, context.clock.now_ms(), context.clock, context.retry_base_s)
        self._attempts.append(
            {
                "event_id": event.id, "number": ending.attempt, "kind": ending.kind, "started_at": ending.started_ms,
                "ended_at": ending.ended_ms, "worker": ending.worker, "environment": ending.environment,
                "version": ending.version, "error_type": ending.error_type[:_TYPE_CHARS],
                "error_message": ending.error_message[:_MESSAGE_CHARS], "log_tail": ending.log_tail,
                "result": ending.result[: context.result_bytes], "result_size": len(ending.result),
            }
        )  # fmt: skip
        return self._record(event, decision, config, ending, ending.ended_ms)

    def end_without_attempt(
        self, event: OpenEvent, condition: str, error_type: str, message: str, now_ms: int
    ) -> Settled:
        decision = Decision("failed", event.tries, event.backoffs, event.crashes, condition=condition)
        error = Ending(
            event.request_id,
            event.attempt,
            "lost",
            now_ms,
            now_ms,
            error_type=error_type or condition,
            error_message=message,
        )
        return self._record(event, decision, self._config(event), error, now_ms, attempted=False)

    def _record(
        self,
        event: OpenEvent,
        decision: Decision,
        config: EventConfig,
        ending: Ending,
        ended_ms: int,
        *,
        attempted: bool = True,
    ) -> Settled:
        """Note the event's new state, and write the consequences when the event has ended."""
        over = decision.state != "queued"
        self._events.append(
            {
                "event": event.id, "state": decision.state, "tries": decision.tries, "backoffs": decision.backoffs,
                "crashes": decision.crashes, "due_at": decision.due_ms, "ended_at": ended_ms if over else 0,
                "condition": decision.condition, "error_type": ending.error_type[:_TYPE_CHARS],
                "error_message": ending.error_message[:_MESSAGE_CHARS],
            }
        )  # fmt: skip
        last = ending if attempted else None
        invoked = (
            record_consequences(self._connection, event, decision, config, last, self._context, ending.error_message)
            if over
            else None
        )
        return Settled(
            event.request_id,
            event.function,
            event.lane,
            ending.kind if attempted else None,
            decision.state,
            decision.condition,
            invoked is not None,
            invoked or "",
        )

    def _config(self, event: OpenEvent) -> EventConfig:
        """The configuration as it stands now, read once for all events of a function and qualifier."""
        name = (event.function, event.qualifier)
        found = self._configs.get(name)
        if found is None:
            try:
                found = resolve(self._connection, key_of(event.function), event.qualifier or None).main.event_config
            except AwsError:
                found = EventConfig()  # the function was deleted, with its configuration
            self._configs[name] = found
        return found

    def write(self) -> None:
        _ADD_ATTEMPTS(self._connection, self._attempts)
        _CHANGE_EVENTS(self._connection, self._events)
