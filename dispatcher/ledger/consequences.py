"""What the end of an event causes: a record for its destination, a dead letter, the invocation of another function.

Another function of this server is invoked by a new event in the same transaction, so that it can be neither lost nor doubled.
"""

import json
import uuid
from datetime import UTC, datetime
from typing import Final, cast

from sqlalchemy import Connection, insert, select

from dispatcher import recursion_guard
from dispatcher.catalog.resolving import EventConfig
from dispatcher.catalog.rows import FunctionKey
from dispatcher.ledger import records
from dispatcher.ledger.accepting import NewEvent, accept, key_of, key_text
from dispatcher.ledger.deciding import Decision
from dispatcher.ledger.endings import Context, Ending
from dispatcher.ledger.rows import LastResponse, OpenEvent
from dispatcher.sql.tables import attempts, deliveries, payloads
from dispatcher.sql.typed_rows import columns_of, fetch_one

#: ``arn:aws:lambda:<region>:<account>:function:<name>[:<qualifier>]``
_LAMBDA_PARTS = 7
#: Attribute of a delivery that must not be made; its value is the reason with which the delivery fails.
REFUSED: Final = "refused"
_FOREIGN: Final = "the destination is a function of another account"


def record_consequences(
    connection: Connection,
    event: OpenEvent,
    decision: Decision,
    config: EventConfig,
    ending: Ending | None,
    context: Context,
    error: str = "",
) -> str | None:
    """Add the deliveries and the event that the end of ``event`` causes.

    ``ending`` is that of the last attempt, or None without one, and then ``error`` says why there was none. Answers the
    function of the event that was added, empty when none was; None when the end has no consequences.
    """
    success = decision.state == "succeeded"
    destination = config.on_success if success else config.on_failure
    dead_letter = "" if success else config.dead_letter
    if not decision.condition or not (destination or dead_letter):
        return None
    invoked = ""
    payload = connection.execute(select(payloads.c.payload).where(payloads.c.event_id == event.id)).scalar_one()
    if destination:
        record = records.destination_record(_ended_event(connection, event, decision, ending, payload, context))
        invoked = _send(connection, event, destination, record, context)
    if dead_letter:
        message = ending.error_message if ending is not None else error or decision.condition
        body, attributes = records.dead_letter(payload, event.request_id, message)
        _deliver(connection, event, "dead-letter", dead_letter, body, attributes, context)
    return invoked


def function_arn(function: str, qualifier: str) -> str:
    """The ARN of the ledger's ``account:region:name``, with the qualifier when there is one."""
    return key_of(function).arn(qualifier or None)


def _ended_event(
    connection: Connection,
    event: OpenEvent,
    decision: Decision,
    ending: Ending | None,
    payload: bytes,
    context: Context,
) -> records.EndedEvent:
    return records.EndedEvent(
        event.request_id,
        function_arn(event.function, event.qualifier),
        cast("records.Condition", decision.condition),
        decision.tries + decision.crashes,
        payload,
        _response(connection, event, ending),
        datetime.fromtimestamp(context.clock.now_ms() / 1000, UTC),
    )


def _response(connection: Connection, event: OpenEvent, ending: Ending | None) -> records.Response | None:
    """What the function answered last. Before the last attempt that was an error, of which a limited part is kept."""
    if ending is not None and ending.kind in {"success", "function_error"}:
        return records.Response(ending.result, ending.version, "" if ending.kind == "success" else "Unhandled")
    if not event.tries:
        return None
    query = (
        select(*columns_of(LastResponse, attempts))
        .where(attempts.c.event_id == event.id, attempts.c.kind == "function_error")
        .order_by(attempts.c.number.desc())
        .limit(1)
    )
    found = fetch_one(connection, query, LastResponse)
    return None if found is None else records.Response(found.result, found.version, "Unhandled")


def _send(connection: Connection, event: OpenEvent, target: str, record: bytes, context: Context) -> str:
    parts = target.split(":")
    if len(parts) < _LAMBDA_PARTS or parts[2] != "lambda":
        _deliver(connection, event, "destination", target, record, {}, context)
        return ""
    key = FunctionKey(parts[4], parts[3], parts[6])
    # Such a destination can't be set any more, but older databases have some.
    if key.account != key_of(event.function).account:
        _deliver(connection, event, "destination", target, record, {REFUSED: _FOREIGN}, context)
        return ""
    trace_id = recursion_guard.follow(event.trace_id, key.arn(None))
    if recursion_guard.is_loop(trace_id, key.arn(None)):
        _deliver(connection, event, "destination", target, record, {REFUSED: recursion_guard.MESSAGE}, context)
        return ""
    record_event = NewEvent(
        str(uuid.uuid4()),
        key,
        parts[7] if len(parts) > _LAMBDA_PARTS else "",
        record,
        trace_id,
        origin=f"destination:{key_of(event.function).name}",
        parent=event.request_id,
    )
    accept(connection, [record_event], [next(context.ids)], context.clock.now_ms())
    return key_text(key)


def _deliver(
    connection: Connection,
    event: OpenEvent,
    kind: str,
    target: str,
    body: bytes,
    attributes: dict[str, str],
    context: Context,
) -> None:
    connection.execute(
        insert(deliveries).values(
            id=next(context.ids),
            event_id=event.id,
            kind=kind,
            target=target,
            body=body,
            attributes=json.dumps(attributes),
            state="queued",
            tries=0,
            due_at=context.clock.now_ms(),
            ended_at=0,
            error="",
        )
    )
