"""Which events go to the workers next: one round, in one transaction.

The feeder's question is always the same: given so many free slots per mode, which due events? Functions take turns, one message
each, so that a function with a million events delays another by one message only. What is in flight is counted here, in the
ledger, where every dispatcher's is seen; on PostgreSQL an advisory lock makes rounds follow each other, so two dispatchers
never fill the same slots.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from sqlalchemy import Connection, func, select, text, update

from dispatcher import lineage
from dispatcher.catalog.resolving import Resolution, Target, resolve
from dispatcher.ledger import settling
from dispatcher.ledger.accepting import EventRow, key_of
from dispatcher.ledger.deciding import AGE_EXCEEDED, RETRIES_EXHAUSTED, ZERO_CONCURRENCY, too_old
from dispatcher.ledger.ids import accepted_ms
from dispatcher.sql.tables import events, payloads
from dispatcher.wire.errors import AwsError
from workers.contract.messages import Lane, Mode

#: Payloads of one message, and of all that are in flight.
MESSAGE_BYTES: Final = 1 << 20
FLIGHT_BYTES: Final = 64 << 20
_LOCK: Final = 0x45564546
_LANES: Final[tuple[Lane, ...]] = ("event", "replay")
#: Function by function through the index, without touching the events between: a backlog of millions costs nothing.
_WAITING: Final = text(
    "WITH RECURSIVE waiting(function) AS ("
    "SELECT min(function) FROM events WHERE state = 'queued' UNION ALL "
    "SELECT (SELECT min(function) FROM events WHERE state = 'queued' AND function > waiting.function) "
    "FROM waiting WHERE waiting.function IS NOT NULL) "
    "SELECT function FROM waiting WHERE function IS NOT NULL LIMIT 10000"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a round may do."""

    most: dict[str, int]
    """Mode → messages that may be in flight."""
    mode_of: Callable[[Target], Mode]
    size_of: Callable[[str], int]
    """Function → invocations in a message."""
    name: Callable[[], str]
    """A name that no message has."""
    after: str
    """The function that had the last turn of the round before."""


class FedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of a message."""

    request_id: str
    attempt: int
    payload: bytes
    trace_id: str


@dataclass(frozen=True, slots=True)
class Fed:
    """A message that is in flight in the ledger, and is to be published."""

    message: str
    mode: Mode
    lane: Lane
    target: Target
    events: list[FedEvent]


@dataclass(slots=True)
class Round:
    """What was done."""

    fed: list[Fed] = field(default_factory=list)
    ended: list[settling.Settled] = field(default_factory=list)
    after: str = ""
    full: bool = False
    """Something was due and found no slot."""
    next_ms: int | None = None
    """When the next of those that wait is due."""


@dataclass(slots=True)
class _Flight:
    """What is in flight."""

    messages: Counter[str]
    functions: Counter[str]
    size: int
    resolved: dict[tuple[str, str], Resolution] = field(default_factory=dict)
    """As it stands now, once in a round: so a fixed function cures its waiting retries."""


def feed(connection: Connection, plan: Plan, context: "settling.Context") -> Round:
    """Mark what goes out as fed, and end what has become too old or may not run at all."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    flight = _flight(connection)
    functions: Sequence[str] = connection.execute(_WAITING).scalars().all()
    done = Round(after=plan.after)
    turns = deque(
        (function, lane)
        for function in [*(f for f in functions if f > plan.after), *(f for f in functions if f <= plan.after)]
        for lane in _LANES
    )
    now_ms = context.clock.now_ms()
    while turns:
        function, lane = turns.popleft()
        turn = _Turn(connection, plan, context, flight, done, function, lane, now_ms)
        if turn.take():
            turns.append((function, lane))
    return done


def _flight(connection: Connection) -> _Flight:
    query = (
        select(events.c.mode, events.c.function, events.c.message, func.sum(events.c.size).label("size"))
        .where(events.c.state == "fed")
        .group_by(events.c.mode, events.c.function, events.c.message)
    )
    rows = connection.execute(query).all()
    return _Flight(
        Counter(row.mode for row in rows), Counter(row.function for row in rows), sum(int(row.size) for row in rows)
    )


@dataclass(slots=True)
class _Turn:
    """One function's turn in one lane."""

    connection: Connection
    plan: Plan
    context: "settling.Context"
    flight: _Flight
    done: Round
    function: str
    lane: Lane
    now_ms: int

    def take(self) -> bool:
        """Whether it may have another turn in this round."""
        rows = self._due()
        if not rows:
            return False
        qualifier: str = rows[0].qualifier
        rows = [row for row in rows if row.qualifier == qualifier]
        try:
            target = self._resolve(qualifier)
        except AwsError as error:
            self._end(rows, "", error.code, error.message)
            return True
        if target.reserved_concurrency == 0:
            self._end(rows, ZERO_CONCURRENCY)
            return True
        arn = target.spec.arn
        looping = [row for row in rows if lineage.is_loop(row.trace_id, arn)]
        if looping:
            self._end(looping, RETRIES_EXHAUSTED, lineage.ERROR, lineage.MESSAGE)
            return True
        config = target.event_config
        old = [row for row in rows if too_old(accepted_ms(row.id), config, self.now_ms, self.context.clock)]
        if old:
            self._end(old, AGE_EXCEEDED)
            return True
        mode = self.plan.mode_of(target)
        if target.state != "Active":
            return False
        limit = target.reserved_concurrency
        if limit is not None and self.flight.functions[self.function] >= limit:
            return False
        free = self.plan.most.get(mode, 0) - self.flight.messages[mode]
        if free <= 0 or self.flight.size >= FLIGHT_BYTES:
            self.done.full = True
            return False
        self._feed(self._fitting(rows), target, mode)
        return True

    def _resolve(self, qualifier: str) -> Target:
        name = (self.function, qualifier)
        found = self.flight.resolved.get(name)
        if found is None:
            found = self.flight.resolved[name] = resolve(self.connection, key_of(self.function), qualifier or None)
        return found.pick(random.random)

    def _due(self) -> Sequence[EventRow]:
        query = (
            select(*settling.COLUMNS)
            .where(events.c.state == "queued", events.c.function == self.function, events.c.lane == self.lane)
            .order_by(events.c.due_at, events.c.id)
            .limit(max(self.plan.size_of(self.function), 1))
        )
        if self.connection.dialect.name == "postgresql":
            query = query.with_for_update(skip_locked=True)
        rows = self.connection.execute(query).all()
        due = [row for row in rows if row.due_at <= self.now_ms]
        if len(due) < len(rows):
            later = rows[len(due)].due_at
            self.done.next_ms = later if self.done.next_ms is None else min(later, self.done.next_ms)
        return due

    def _fitting(self, rows: Sequence[EventRow]) -> list[EventRow]:
        """The first of them whose payloads fit into one message; one always does."""
        fitting: list[EventRow] = []
        size = 0
        for row in rows:
            size += row.size
            if fitting and size > MESSAGE_BYTES:
                break
            fitting.append(row)
        return fitting

    def _feed(self, rows: list[EventRow], target: Target, mode: Mode) -> None:
        message = self.plan.name()
        numbers = [row.id for row in rows]
        self.connection.execute(
            update(events)
            .where(events.c.id.in_(numbers))
            .values(state="fed", attempt=events.c.attempt + 1, mode=mode, message=message, fed_at=self.now_ms)
        )
        found = self.connection.execute(select(payloads).where(payloads.c.event_id.in_(numbers))).all()
        bodies = {row.event_id: bytes(row.payload) for row in found}
        fed = [FedEvent(row.request_id, row.attempt + 1, bodies[row.id], row.trace_id) for row in rows]
        self.done.fed.append(Fed(message, mode, self.lane, target, fed))
        self.done.after = self.function
        self.flight.messages[mode] += 1
        self.flight.functions[self.function] += 1
        self.flight.size += sum(row.size for row in rows)

    def _end(self, rows: Iterable[EventRow], condition: str, error_type: str = "", message: str = "") -> None:
        self.done.ended += settling.end(
            self.connection, list(rows), condition, error_type, message, self.now_ms, self.context
        )


def unfed(connection: Connection, older_than_ms: int) -> list[EventRow]:
    """What is in flight and was fed before: request_id, attempt, message, mode, lane, function, fed_at."""
    query = select(
        events.c.request_id, events.c.attempt, events.c.message, events.c.mode, events.c.lane, events.c.function,
        events.c.fed_at,
    ).where(events.c.state == "fed", events.c.fed_at < older_than_ms)  # fmt: skip
    return list(connection.execute(query).all())
