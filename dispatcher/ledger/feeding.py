"""Which events go to the workers next: one round, in one transaction.

The feeder's question is always the same: given so many free slots per mode, which due events? Functions take turns, one message
each, so that a function with a million events delays another by one message only. What is in flight is counted here, in the
ledger, where every dispatcher's is seen; on PostgreSQL an advisory lock makes rounds follow each other, so two dispatchers
never fill the same slots.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from sqlalchemy import Connection, func, select, text, update

from dispatcher import recursion_guard
from dispatcher.catalog.resolving import Resolution, Target, resolve
from dispatcher.catalog.rows import FunctionKey
from dispatcher.ledger import settling
from dispatcher.ledger.accepting import EventRow, key_of
from dispatcher.ledger.deciding import AGE_EXCEEDED, RETRIES_EXHAUSTED, ZERO_CONCURRENCY, too_old
from dispatcher.ledger.endings import Context, Settled
from dispatcher.ledger.ids import accepted_ms
from dispatcher.sql.tables import events, payloads
from dispatcher.wire.errors import AwsError
from workers.contract.messages import Lane, Mode

#: Payloads of one message, and of all that are in flight.
MESSAGE_BYTES: Final = 1 << 20
FLIGHT_BYTES: Final = 64 << 20
_LOCK: Final = 0x45564546
_LANES: Final[tuple[Lane, ...]] = ("event", "replay")
#: Flow by flow through the index, without touching the events between: a backlog of millions costs nothing. What is due comes
#: first, so that those that wait for a retry never fill the answer.
_WAITING: Final = text(
    "WITH RECURSIVE waiting(function) AS ("
    "SELECT min(function) FROM events WHERE state = 'queued' AND function > :after UNION ALL "
    "SELECT (SELECT min(function) FROM events WHERE state = 'queued' AND function > waiting.function) "
    "FROM waiting WHERE waiting.function IS NOT NULL), "
    "lanes(lane) AS (SELECT 'event' UNION ALL SELECT 'replay') "
    "SELECT function, lane, due_at FROM (SELECT function, lane, (SELECT min(due_at) FROM events WHERE state = 'queued' "
    "AND events.function = waiting.function AND events.lane = lanes.lane) AS due_at FROM waiting, lanes "
    "WHERE function IS NOT NULL) AS flows WHERE due_at IS NOT NULL ORDER BY due_at > :now, function, lane LIMIT 10000"
)
#: A round ends when it has ended so many events without an attempt, or looked at so many flows: others wait for the writer.
_MOST_ENDED: Final = 200
_MOST_TURNS: Final = 400
#: Where there is no room at all, so many flows are looked at for what is too old.
_AGED_TURNS: Final = 20
_MANY: Final = 100


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
    cached: Callable[[FunctionKey, str | None], Resolution | None]
    """What a function and qualifier run, if that is known without asking the database."""
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
    ended: list[Settled] = field(default_factory=list)
    after: str = ""
    full: bool = False
    """Something was due and found no slot."""
    more: bool = False
    """It was cut short: the next one can begin at once."""
    next_ms: int | None = None
    """When the next of those that wait is due."""


@dataclass(slots=True)
class _Flight:
    """What is in flight."""

    messages: Counter[str]
    functions: Counter[str]
    size: int
    resolved: dict[tuple[str, str], Resolution | AwsError] = field(default_factory=dict)
    """As it stands now, once in a round: so a fixed function cures its waiting retries."""
    blocked: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """Flow → qualifiers that can't run now, beside which others can."""


def feed(connection: Connection, plan: Plan, context: Context) -> Round:
    """Mark what goes out as fed, and end what has become too old or may not run at all."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    flight = _flight(connection)
    done = Round(after=plan.after)
    now_ms = context.clock.now_ms()
    turns = deque(_flows(connection, plan.after, now_ms, done))
    feeds = _has_room(plan, flight)
    if not feeds:
        turns.rotate(random.randint(0, len(turns)))  # noqa: S311 - what is too old is found sooner or later, in every flow
    for _ in range(_MOST_TURNS if feeds else _AGED_TURNS):
        if not turns or len(done.ended) >= _MOST_ENDED or (feeds and not _has_room(plan, flight)):
            break
        function, lane = turns.popleft()
        done.after = function if feeds else plan.after
        if _Turn(connection, plan, context, flight, done, function, lane, now_ms).take():
            turns.append((function, lane))
    has_room = _has_room(plan, flight)
    done.full = done.full or (bool(turns) and not has_room)
    done.more = bool(done.fed or done.ended) and bool(turns) and (has_room or len(done.ended) >= _MOST_ENDED)
    return done


def _flows(connection: Connection, after: str, now_ms: int, done: Round) -> list[tuple[str, Lane]]:
    """What has something due, function and lane, those after ``after`` first; notes when the next is."""
    behind = connection.execute(_WAITING, {"after": after, "now": now_ms}).all()
    before = (
        [row for row in connection.execute(_WAITING, {"after": "", "now": now_ms}).all() if row.function <= after]
        if after
        else []
    )
    rows = [*behind, *before]
    later = [row.due_at for row in rows if row.due_at > now_ms]
    done.next_ms = min(later, default=None)
    return [(row.function, row.lane) for row in rows if row.due_at <= now_ms]


def _has_room(plan: Plan, flight: "_Flight") -> bool:
    return flight.size < FLIGHT_BYTES and any(most > flight.messages[mode] for mode, most in plan.most.items())


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
    context: Context
    flight: _Flight
    done: Round
    function: str
    lane: Lane
    now_ms: int

    def take(self) -> bool:
        """Whether it may have another turn in this round."""
        rows = self._due(self.plan.size_of(self.function))
        if not rows:
            return False
        qualifier: str = rows[0].qualifier
        rows = [row for row in rows if row.qualifier == qualifier]
        target = self._resolve(qualifier)
        if isinstance(target, AwsError) or any(self._end_of(row, target) for row in rows):
            self._end_what_may_not_run(target, qualifier)
            return True
        mode = self.plan.mode_of(target)
        limit = target.reserved_concurrency
        if (limit is not None and self.flight.functions[self.function] >= limit) or mode not in self.plan.most:
            return False
        if target.state != "Active":
            self.flight.blocked.setdefault((self.function, self.lane), set()).add(qualifier)
            return True
        if self.plan.most[mode] <= self.flight.messages[mode] or self.flight.size >= FLIGHT_BYTES:
            self.done.full = True
            return False
        # There each starts a container, which takes longer than most functions.
        self._feed(rows[:1] if mode == "docker" else self._fitting(rows), target, mode)
        return True

    def _resolve(self, qualifier: str) -> Target | AwsError:
        name = (self.function, qualifier)
        found = self.flight.resolved.get(name)
        if found is None:
            key = key_of(self.function)
            try:
                found = self.plan.cached(key, qualifier or None) or resolve(self.connection, key, qualifier or None)
            except AwsError as error:
                found = error
            self.flight.resolved[name] = found
        return found if isinstance(found, AwsError) else found.pick(random.random)

    def _due(self, most: int) -> Sequence[EventRow]:
        query = (
            select(*settling.COLUMNS)
            .where(
                events.c.state == "queued",
                events.c.function == self.function,
                events.c.lane == self.lane,
                events.c.due_at <= self.now_ms,
            )
            .order_by(events.c.due_at, events.c.id)
            .limit(max(most, 1))
        )
        blocked = self.flight.blocked.get((self.function, self.lane))
        if blocked:
            query = query.where(events.c.qualifier.not_in(sorted(blocked)))
        if self.connection.dialect.name == "postgresql":
            query = query.with_for_update(skip_locked=True)
        return self.connection.execute(query).all()

    def _end_of(self, row: EventRow, target: Target) -> tuple[str, str, str] | None:
        """Condition, type and message of the error, when the event ends without another attempt."""
        if target.reserved_concurrency == 0:
            return ZERO_CONCURRENCY, "", ""
        if too_old(accepted_ms(row.id), target.event_config, self.now_ms, self.context.clock):
            return AGE_EXCEEDED, "", ""
        if recursion_guard.is_loop(row.trace_id, target.spec.arn):
            return RETRIES_EXHAUSTED, recursion_guard.ERROR, recursion_guard.MESSAGE
        return None

    def _end_what_may_not_run(self, target: Target | AwsError, qualifier: str) -> None:
        """What has nothing to run, may not, or has waited for too long; of a large backlog a part in each turn."""
        ends: dict[tuple[str, str, str], list[EventRow]] = {}
        for row in self._due(_MANY):
            if row.qualifier == qualifier:
                # Without a function there is no condition of AWS's, and nobody to be told.
                end = ("", target.code, target.message) if isinstance(target, AwsError) else self._end_of(row, target)
                if end is not None:
                    ends.setdefault(end, []).append(row)
        for (condition, error_type, message), rows in ends.items():
            self.done.ended += settling.end(
                self.connection, rows, condition, error_type, message, self.now_ms, self.context
            )

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
        self.flight.messages[mode] += 1
        self.flight.functions[self.function] += 1
        self.flight.size += sum(row.size for row in rows)


def unfed(connection: Connection, older_than_ms: int) -> list[EventRow]:
    """What is in flight and was fed before: request_id, attempt, message, mode, lane, function, fed_at."""
    query = select(
        events.c.request_id, events.c.attempt, events.c.message, events.c.mode, events.c.lane, events.c.function,
        events.c.fed_at,
    ).where(events.c.state == "fed", events.c.fed_at < older_than_ms)  # fmt: skip
    return list(connection.execute(query).all())
