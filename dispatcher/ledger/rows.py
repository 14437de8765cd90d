"""What the ledger's queries answer, a Struct for each. Points in time are in ms since 1970, and 0 stands for never."""

import msgspec

from workers.contract.messages import Lane, Mode


class OpenEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that has not ended, with what feeding and settling need of it."""

    id: int
    request_id: str
    function: str
    """``account:region:name``."""
    qualifier: str
    """Empty when none was given."""
    lane: Lane
    size: int
    """Bytes of the payload."""
    attempt: int
    """Number of the newest attempt; 0 before the first."""
    tries: int
    """Attempts that the function itself ended."""
    backoffs: int
    """Throttles and system errors since the last try."""
    crashes: int
    """Attempts whose worker died while they ran."""
    trace_id: str


class Event(msgspec.Struct, frozen=True, gc=False):
    """All columns of ``events``; :mod:`dispatcher.sql.tables` explains each."""

    id: int
    request_id: str
    function: str
    qualifier: str
    lane: Lane
    state: str
    size: int
    due_at: int
    attempt: int
    tries: int
    backoffs: int
    crashes: int
    trace_id: str
    origin: str
    parent: str
    mode: str
    message: str
    fed_at: int
    ended_at: int
    condition: str
    error_type: str
    error_message: str


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """All columns of ``attempts`` but the event's id."""

    number: int
    kind: str
    started_at: int
    ended_at: int
    worker: str
    environment: str
    version: str
    error_type: str
    error_message: str
    log_tail: bytes
    result: bytes
    result_size: int
    """Bytes before the result was capped."""


class DeliveryProgress(msgspec.Struct, frozen=True, gc=False):
    """How far a delivery is; its body and attributes are left out."""

    kind: str
    target: str
    state: str
    tries: int
    error: str
    due_at: int
    ended_at: int


class DeliveryToTry(msgspec.Struct, frozen=True, gc=False):
    """A delivery, with what is sent beside it from its event."""

    id: int
    event_id: int
    kind: str
    target: str
    body: bytes
    attributes: str
    tries: int
    request_id: str
    function: str
    lane: str
    qualifier: str
    condition: str
    trace_id: str


class InFlightMessage(msgspec.Struct, frozen=True, gc=False):
    """A message that is in flight."""

    mode: Mode
    function: str
    message: str
    size: int
    """Bytes of all its payloads."""


class InFlightEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that is in flight, with what rescuing it needs."""

    request_id: str
    attempt: int
    message: str
    mode: Mode
    lane: Lane
    function: str
    fed_at: int


class EventPayload(msgspec.Struct, frozen=True, gc=False):
    """A row of ``payloads``."""

    event_id: int
    payload: bytes


class CancelledEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that was just cancelled."""

    id: int
    request_id: str
    function: str
    lane: Lane


class WaitingFlow(msgspec.Struct, frozen=True, gc=False):
    """A function and lane with queued events."""

    function: str
    lane: Lane
    due_at: int
    """When the first of them is due."""


class WaitingTarget(msgspec.Struct, frozen=True, gc=False):
    """A target with queued deliveries."""

    target: str
    due_at: int
    """When the first of them is due."""


class LastResponse(msgspec.Struct, frozen=True, gc=False):
    """What a function answered in an attempt."""

    result: bytes
    version: str


class QueueLength(msgspec.Struct, frozen=True, gc=False):
    """How many events of a function and lane are in one state."""

    function: str
    lane: Lane
    count: int
    oldest_id: int
