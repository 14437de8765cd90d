"""Which events go to the workers next: one round, in one transaction.

The feeder's question is always the same: given so many free slots per mode, which due events? Functions take turns, one message
each, so that a function with a million events delays another by one message only. What is in flight is counted here, in the
ledger, where what other dispatchers fed is seen too; on PostgreSQL an advisory lock makes rounds follow each other, so two
dispatchers never fill the same slots.
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
from dispatcher.ledger.accepting import key_of
from dispatcher.ledger.deciding import AGE_EXCEEDED, RETRIES_EXHAUSTED, ZERO_CONCURRENCY, too_old
from dispatcher.ledger.endings import Context, Settled
from dispatcher.ledger.ids import accepted_ms
from dispatcher.ledger.rows import EventPayload, InFlightEvent, InFlightMessage, OpenEvent, WaitingFlow
from dispatcher.ledger.settling import end_without_attempt
from dispatcher.sql.skip_scan import skip_scan
from dispatcher.sql.tables import events, payloads
from dispatcher.sql.typed_rows import columns_of, fetch
from dispatcher.wire.errors import AwsError
from workers.contract.messages import Lane, Mode

#: The most bytes of payloads in one message, and in all that are in flight.
MESSAGE_BYTES: Final = 1 << 20
FLIGHT_BYTES: Final = 64 << 20
#: Key of PostgreSQL's advisory lock: one dispatcher feeds at a time.
_LOCK: Final = 0x45564546
_QUEUED: Final = "state = 'queued'"
#: Flow by flow through the index, without touching the events between: a backlog of millions costs nothing. What is due comes
#: first, so that those that wait for a retry never fill the answer.
_WAITING: Final = text(
    f"WITH RECURSIVE {skip_scan('events', 'function', _QUEUED, 'function > :after')}, "  # noqa: S608 - words of ours
    "lanes(lane) AS (SELECT 'event' UNION ALL SELECT 'replay') "
    f"SELECT function, lane, due_at FROM (SELECT name AS function, lane, (SELECT min(due_at) FROM events WHERE {_QUEUED} "
    "AND events.function = names.name AND events.lane = lanes.lane) AS due_at FROM names, lanes "
    "WHERE name IS NOT NULL) AS flows WHERE due_at IS NOT NULL ORDER BY due_at > :now, function, lane LIMIT 10000"
)
#: A round ends when it has ended so many events without an attempt, or given so many flows a turn, because others wait for
#: the writer.
_MOST_ENDED: Final = 200
_MOST_TURNS: Final = 400
#: How many flows are searched for what is too old when there is no room at all.
_AGED_TURNS: Final = 20
#: How many events of one flow are searched for what may not run, in one turn.
_MOST_SEARCHED: Final = 100
_OPEN: Final = select(*columns_of(OpenEvent, events))
_PAYLOADS: Final = select(*columns_of(EventPayload, payloads))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a round may do."""

    most: dict[str, int]
    """Mode → messages that may be in flight."""
    mode_of: Callable[[Target], Mode]
    size_of: Callable[[str], int]
    """Function → how many invocations a message of it has."""
    new_name: Callable[[], str]
    """Answers a name that no message has."""
    cached: Callable[[FunctionKey, str | None], Resolution | None]
    """What a function and qualifier run, or None when only the database knows."""
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
    """What a round did."""

    fed: list[Fed] = field(default_factory=list)
    ended: list[Settled] = field(default_factory=list)
    after: str = ""
    full: bool = False
    """Whether something was due and found no slot."""
    more: bool = False
    """Whether the round stopped at a limit, so that the next one can begin at once."""
    next_ms: int | None = None
    """When the next of the events that wait is due, in ms since 1970; None when none waits."""


@dataclass(slots=True)
class _InFlight:
    """What is in flight, and what this round has learnt."""

    messages: Counter[str]
    functions: Counter[str]
    size: int
    resolved: dict[tuple[str, str], Resolution | AwsError] = field(default_factory=dict)
    """What each function and qualifier runs, read once in every round, so that waiting retries run a function that was mended."""
    blocked: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """Flow → qualifiers that can't run now, while others of the flow can."""

    def has_room(self, plan: Plan) -> bool:
        return self.size < FLIGHT_BYTES and any(most > self.messages[mode] for mode, most in plan.most.items())


def feed(connection: Connection, plan: Plan, context: Context) -> Round:
    """Mark what goes out as fed, and end what has become too old or may not run at all."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    in_flight = _in_flight(connection)
    done = Round(after=plan.after)
    now_ms = context.clock.now_ms()
    turns = deque(_due_flows(connection, plan.after, now_ms, done))
    feeds = in_flight.has_room(plan)
    if not feeds:
        turns.rotate(random.randint(0, len(turns)))  # noqa: S311 - what is too old is found sooner or later, in every flow
    for _ in range(_MOST_TURNS if feeds else _AGED_TURNS):
        if not turns or len(done.ended) >= _MOST_ENDED or (feeds and not in_flight.has_room(plan)):
            break
        function, lane = turns.popleft()
        done.after = function if feeds else plan.after
        if _Turn(connection, plan, context, in_flight, done, function, lane, now_ms).feed_or_end():
            turns.append((function, lane))
    has_room = in_flight.has_room(plan)
    done.full = done.full or (bool(turns) and not has_room)
    done.more = bool(done.fed or done.ended) and bool(turns) and (has_room or len(done.ended) >= _MOST_ENDED)
    return done


def _due_flows(connection: Connection, after: str, now_ms: int, done: Round) -> list[tuple[str, Lane]]:
    """Function and lane of what has something due, those after ``after`` first; notes when the next is due."""
    flows = _waiting_flows(connection, after, now_ms)
    if after:
        flows += (flow for flow in _waiting_flows(connection, "", now_ms) if flow.function <= after)
    done.next_ms = min((flow.due_at for flow in flows if flow.due_at > now_ms), default=None)
    return [(flow.function, flow.lane) for flow in flows if flow.due_at <= now_ms]


def _waiting_flows(connection: Connection, after: str, now_ms: int) -> list[WaitingFlow]:
    return fetch(connection, _WAITING, WaitingFlow, {"after": after, "now": now_ms})


def _in_flight(connection: Connection) -> _InFlight:
    query = (
        select(events.c.mode, events.c.function, events.c.message, func.sum(events.c.size))
        .where(events.c.state == "fed")
        .group_by(events.c.mode, events.c.function, events.c.message)
    )
    found = fetch(connection, query, InFlightMessage)
    return _InFlight(
        Counter(message.mode for message in found),
        Counter(message.function for message in found),
        sum(message.size for message in found),
    )


@dataclass(slots=True)
class _Turn:
    """One function's turn in one lane."""

    connection: Connection
    plan: Plan
    context: Context
    in_flight: _InFlight
    done: Round
    function: str
    lane: Lane
    now_ms: int

    def feed_or_end(self) -> bool:
        """Feed one message, or end what may not run; answers whether the flow may have another turn in this round."""
        rows = self._due(self.plan.size_of(self.function))
        if not rows:
            return False
        qualifier = rows[0].qualifier
        rows = [row for row in rows if row.qualifier == qualifier]
        target = self._resolve(qualifier)
        if isinstance(target, AwsError) or any(self._end_of(row, target) for row in rows):
            self._end_what_may_not_run(target, qualifier)
            return True
        mode = self.plan.mode_of(target)
        limit = target.reserved_concurrency
        if (limit is not None and self.in_flight.functions[self.function] >= limit) or mode not in self.plan.most:
            return False
        if target.state != "Active":
            self.in_flight.blocked.setdefault((self.function, self.lane), set()).add(qualifier)
            return True
        if self.plan.most[mode] <= self.in_flight.messages[mode] or self.in_flight.size >= FLIGHT_BYTES:
            self.done.full = True
            return False
        # In the mode docker each invocation starts a container, which takes longer than most functions.
        self._feed(rows[:1] if mode == "docker" else self._fitting(rows), target, mode)
        return True

    def _resolve(self, qualifier: str) -> Target | AwsError:
        name = (self.function, qualifier)
        found = self.in_flight.resolved.get(name)
        if found is None:
            key = key_of(self.function)
            try:
                found = self.plan.cached(key, qualifier or None) or resolve(self.connection, key, qualifier or None)
            except AwsError as error:
                found = error
            self.in_flight.resolved[name] = found
        return found if isinstance(found, AwsError) else found.pick(random.random)

    def _due(self, most: int) -> list[OpenEvent]:
        query = (
            _OPEN.where(
                events.c.state == "queued",
                events.c.function == self.function,
                events.c.lane == self.lane,
                events.c.due_at <= self.now_ms,
            )
            .order_by(events.c.due_at, events.c.id)
            .limit(max(most, 1))
        )
        blocked = self.in_flight.blocked.get((self.function, self.lane))
        if blocked:
            query = query.where(events.c.qualifier.not_in(sorted(blocked)))
        if self.connection.dialect.name == "postgresql":
            query = query.with_for_update(skip_locked=True)
        return fetch(self.connection, query, OpenEvent)

    def _end_of(self, row: OpenEvent, target: Target) -> tuple[str, str, str] | None:
        """Condition, type and message of the error, when the event ends without another attempt."""
        if target.reserved_concurrency == 0:
            return ZERO_CONCURRENCY, "", ""
        if too_old(accepted_ms(row.id), target.event_config, self.now_ms, self.context.clock):
            return AGE_EXCEEDED, "", ""
        if recursion_guard.is_loop(row.trace_id, target.spec.arn):
            return RETRIES_EXHAUSTED, recursion_guard.ERROR, recursion_guard.MESSAGE
        return None

    def _end_what_may_not_run(self, target: Target | AwsError, qualifier: str) -> None:
        """End what has nothing to run, may not run, or has waited for too long; of a large backlog a part in each turn."""
        ends: dict[tuple[str, str, str], list[OpenEvent]] = {}
        for row in self._due(_MOST_SEARCHED):
            if row.qualifier == qualifier:
                # Without a function AWS has no condition, and nobody is told.
                end = ("", target.code, target.message) if isinstance(target, AwsError) else self._end_of(row, target)
                if end is not None:
                    ends.setdefault(end, []).append(row)
        for (condition, error_type, message), rows in ends.items():
            self.done.ended += end_without_attempt(
                self.connection, rows, condition, error_type, message, self.now_ms, self.context
            )

    def _fitting(self, rows: Sequence[OpenEvent]) -> list[OpenEvent]:
        """The first of the events, as many as have payloads that fit into one message; one always does."""
        fitting: list[OpenEvent] = []
        size = 0
        for row in rows:
            size += row.size
            if fitting and size > MESSAGE_BYTES:
                break
            fitting.append(row)
        return fitting

    def _feed(self, rows: list[OpenEvent], target: Target, mode: Mode) -> None:
        message = self.plan.new_name()
        numbers = [row.id for row in rows]
        self.connection.execute(
            update(events)
            .where(events.c.id.in_(numbers))
            .values(state="fed", attempt=events.c.attempt + 1, mode=mode, message=message, fed_at=self.now_ms)
        )
        query = _PAYLOADS.where(payloads.c.event_id.in_(numbers))
        bodies = {found.event_id: found.payload for found in fetch(self.connection, query, EventPayload)}
        fed = [FedEvent(row.request_id, row.attempt + 1, bodies[row.id], row.trace_id) for row in rows]
        self.done.fed.append(Fed(message, mode, self.lane, target, fed))
        self.in_flight.messages[mode] += 1
        self.in_flight.functions[self.function] += 1
        self.in_flight.size += sum(row.size for row in rows)


def in_flight_since(connection: Connection, before_ms: int) -> list[InFlightEvent]:
    """The events in flight that were fed before ``before_ms`` (ms since 1970)."""
    query = select(*columns_of(InFlightEvent, events)).where(events.c.state == "fed", events.c.fed_at < before_ms)
    return fetch(connection, query, InFlightEvent)
