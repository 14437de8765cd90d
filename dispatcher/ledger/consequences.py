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
from dispatcher.ledger.accepting import EventRow, NewEvent, accept, key_of, key_text
from dispatcher.ledger.deciding import Decision
from dispatcher.ledger.endings import Context, Ending
from dispatcher.sql.tables import attempts, deliveries, payloads

#: ``arn:aws:lambda:<region>:<account>:function:<name>[:<qualifier>]``
_LAMBDA_PARTS = 7
#: Attribute of a delivery that must not be made, and fails with this reason.
REFUSED: Final = "refused"
_FOREIGN: Final = "the destination is a function of another account"


def follow(
    connection: Connection,
    row: EventRow,
    decision: Decision,
    config: EventConfig,
    ending: Ending | None,
    context: Context,
    error: str = "",
) -> str | None:
    """Write down what is to be delivered. ``ending``: of the last attempt, if there was one; ``error``: why there was none.

    Answers the function of the event that this made, empty if it made none; None when nothing follows.
    """
    success = decision.state == "succeeded"
    destination = config.on_success if success else config.on_failure
    dead_letter = "" if success else config.dead_letter
    if not decision.condition or not (destination or dead_letter):
        return None
    made = ""
    payload = bytes(connection.execute(select(payloads.c.payload).where(payloads.c.event_id == row.id)).scalar_one())
    if destination:
        record = records.destination_record(_ended(connection, row, decision, ending, payload, context))
        made = _send(connection, row, destination, record, context)
    if dead_letter:
        message = ending.error_message if ending is not None else error or decision.condition
        body, attributes = records.dead_letter(payload, row.request_id, message)
        _deliver(connection, row, "dead-letter", dead_letter, body, attributes, context)
    return made


def function_arn(function: str, qualifier: str) -> str:
    """Of the ledger's ``account:region:name``; with the qualifier if there is one."""
    return key_of(function).arn(qualifier or None)


def _ended(
    connection: Connection,
    row: EventRow,
    decision: Decision,
    ending: Ending | None,
    payload: bytes,
    context: Context,
) -> records.Ending:
    return records.Ending(
        row.request_id,
        function_arn(row.function, row.qualifier),
        cast("records.Condition", decision.condition),
        decision.tries + decision.crashes,
        payload,
        _response(connection, row, ending),
        datetime.fromtimestamp(context.clock.now_ms() / 1000, UTC),
    )


def _response(connection: Connection, row: EventRow, ending: Ending | None) -> records.Response | None:
    """What the function answered last. That may be a while ago: then it was an error, and is kept up to a limit."""
    if ending is not None and ending.kind in {"success", "function_error"}:
        return records.Response(ending.result, ending.version, "" if ending.kind == "success" else "Unhandled")
    if not row.tries:
        return None
    query = (
        select(attempts.c.result, attempts.c.version)
        .where(attempts.c.event_id == row.id, attempts.c.kind == "function_error")
        .order_by(attempts.c.number.desc())
        .limit(1)
    )
    found = connection.execute(query).one_or_none()
    return None if found is None else records.Response(bytes(found.result), found.version, "Unhandled")


def _send(connection: Connection, row: EventRow, target: str, record: bytes, context: Context) -> str:
    parts = target.split(":")
    if len(parts) < _LAMBDA_PARTS or parts[2] != "lambda":
        _deliver(connection, row, "destination", target, record, {}, context)
        return ""
    key = FunctionKey(parts[4], parts[3], parts[6])
    # No such destination can be set any more, but databases have those from before.
    if key.account != key_of(row.function).account:
        _deliver(connection, row, "destination", target, record, {REFUSED: _FOREIGN}, context)
        return ""
    trace_id = recursion_guard.follow(row.trace_id, key.arn(None))
    if recursion_guard.is_loop(trace_id, key.arn(None)):
        _deliver(connection, row, "destination", target, record, {REFUSED: recursion_guard.MESSAGE}, context)
        return ""
    event = NewEvent(
        str(uuid.uuid4()),
        key,
        parts[7] if len(parts) > _LAMBDA_PARTS else "",
        record,
        trace_id,
        origin=f"destination:{key_of(row.function).name}",
        parent=row.request_id,
    )
    accept(connection, [event], [next(context.ids)], context.clock.now_ms())
    return key_text(key)


def _deliver(
    connection: Connection,
    row: EventRow,
    kind: str,
    target: str,
    body: bytes,
    attributes: dict[str, str],
    context: Context,
) -> None:
    connection.execute(
        insert(deliveries).values(
            id=next(context.ids),
            event_id=row.id,
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
