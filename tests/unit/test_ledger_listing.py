"""Looking at the ledger and cancelling, on both databases; and that no filter reads through all of it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, insert

from dispatcher.ledger import cancelling, listing
from dispatcher.ledger.ids import first_of
from dispatcher.ledger.listing import Filters, Gauge
from dispatcher.sql.migrations import migrate
from dispatcher.sql.tables import attempts, deliveries, events, payloads
from tests.services.postgres import PostgresServer

ACCOUNT: Final = "111111111111"
REGION: Final = "eu-central-1"
START_MS: Final = 1_700_000_000_000
STATES: Final = ("succeeded", "succeeded", "succeeded", "failed", "queued", "fed", "cancelled")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'everwarm.db'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_database().replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(url)
    with engine.begin() as connection:
        migrate(connection)
        connection.execute(insert(events), [row(number) for number in range(5000)])
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """What a test changes is not there for the next."""
    with engine.connect() as connection:
        yield connection
        connection.rollback()


def row(number: int, **members: Any) -> dict[str, Any]:
    """One a second, of ten functions, two accounts, all states; each failed one has one of three errors."""
    state = STATES[number % len(STATES)]
    account = ACCOUNT if number % 10 else "222222222222"
    failed = state == "failed"
    return {
        "id": first_of(START_MS + number * 1000) + 5,
        "request_id": f"request-{number}",
        "function": f"{account}:{REGION}:fn{number % 10}",
        "qualifier": "",
        "lane": "replay" if number % 13 == 0 else "event",
        "state": state,
        "size": 2,
        "due_at": START_MS - number,
        "attempt": 0 if state == "queued" else 2,
        "tries": 0,
        "backoffs": 0,
        "crashes": 0,
        "trace_id": "",
        "origin": f"replay:{number % 7}" if number % 13 == 0 else "function:a" if number % 17 == 0 else "",
        "parent": "",
        "mode": "local" if state == "fed" else "",
        "message": f"m{number}" if state == "fed" else "",
        "fed_at": START_MS,
        "ended_at": 0 if state in {"queued", "fed"} else START_MS + number * 1000 + 500,
        "condition": {"succeeded": "Success", "failed": "RetriesExhausted", "cancelled": "Cancelled"}.get(state, ""),
        "error_type": f"Error{number % 3}" if failed else "",
        "error_message": "it broke" if failed else "",
        **members,
    }


def _any(_one: dict[str, Any]) -> bool:
    return True


def _none(_one: dict[str, Any]) -> bool:
    return False


ALL: Final = [row(number) for number in range(5000)]
FILTERS: Final[dict[str, tuple[Filters, Callable[[dict[str, Any]], bool]]]] = {
    "none": (Filters(), _any),
    "function": (Filters(ACCOUNT, REGION, "fn3"), lambda one: one["function"] == f"{ACCOUNT}:{REGION}:fn3"),
    "another account's": (Filters("222222222222", REGION, "fn3"), _none),
    "account": (Filters("222222222222"), lambda one: one["function"].startswith("222222222222:")),
    "account and region": (Filters(ACCOUNT, REGION), lambda one: one["function"].startswith(f"{ACCOUNT}:{REGION}:")),
    "region": (Filters(region=REGION), _any),
    "unknown region": (Filters(region="us-east-1"), _none),
    **{
        state: (Filters(state=state), lambda one, state=state: one["state"] == state)  # type: ignore[misc]
        for state in listing.STATES
    },
    "since": (Filters(since_ms=START_MS + 4_990_000), lambda one: one["id"] >= first_of(START_MS + 4_990_000)),
    "until": (Filters(until_ms=START_MS + 10_000), lambda one: one["id"] < first_of(START_MS + 10_000)),
    "error": (Filters(error="Error1"), lambda one: one["error_type"] == "Error1"),
    "origin": (Filters(origin="replay:3"), lambda one: one["origin"] == "replay:3"),
    "origins": (Filters(origin="replay:*"), lambda one: one["origin"].startswith("replay:")),
    "any origin": (Filters(origin="*"), lambda one: one["origin"] != ""),
    "unknown origin": (Filters(origin="x*"), _none),
    "lane": (Filters(lane="replay"), lambda one: one["lane"] == "replay"),
    "function and state": (
        Filters(ACCOUNT, REGION, "fn4", state="queued"),
        lambda one: one["function"] == f"{ACCOUNT}:{REGION}:fn4" and one["state"] == "queued",
    ),
    "state and origins": (
        Filters(state="queued", origin="replay:*", lane="replay"),
        lambda one: one["origin"].startswith("replay:") and one["state"] == "queued",
    ),
    "state and region": (Filters(state="fed", region="us-east-1"), _none),
    "all at once": (
        Filters(ACCOUNT, REGION, "fn3", "failed", START_MS, START_MS + 9_000_000, "Error1", "", "event"),
        lambda one: (one["function"], one["error_type"], one["lane"]) == (f"{ACCOUNT}:{REGION}:fn3", "Error1", "event"),
    ),
}


#: The names that a skip found.
_BOUNDED: Final = re.compile(r"SCAN (names|CONSTANT ROW)")
#: What a filter's statements may go by.
_BY: Final[dict[str, set[str]]] = {
    "function": {"events_function"},
    "another account's": {"events_function"},
    "account": {"events_function"},
    "account and region": {"events_function"},
    "region": {"events_function"},
    "unknown region": {"events_function"},
    "queued": {"events_queued", "PRIMARY KEY"},
    "fed": {"events_fed"},
    "failed": {"events_ended_badly"},
    "cancelled": {"events_ended_badly"},
    "error": {"events_error"},
    "origin": {"events_origin"},
    "origins": {"events_origin"},
    "any origin": {"events_origin"},
    "unknown origin": {"events_origin"},
    "function and state": {"events_queued", "events_function", "PRIMARY KEY"},
    "state and origins": {"events_queued", "events_origin", "PRIMARY KEY"},
    "state and region": {"events_fed"},
    "all at once": {"events_error"},
}


@pytest.mark.parametrize("few", [2000, 10])
@pytest.mark.parametrize("name", FILTERS)
def test_each_filter_finds_the_newest_that_match_by_an_index(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, name: str, few: int
) -> None:
    monkeypatch.setattr(listing, "_FEW", few)
    filters, matches = FILTERS[name]
    expected = [one["request_id"] for one in reversed(ALL) if matches(one)]
    statements = Statements(connection)
    for limit in (1, 30, 1000):
        found = listing.list_events(connection, filters, limit)
        assert [one["request_id"] for one in found] == expected[:limit]
    assert statements.asked
    if connection.dialect.name == "sqlite":
        for plan in statements.plans():
            lines = [line for line in plan if not _BOUNDED.fullmatch(line)]
            assert not [line for line in lines if "SCAN" in line or "TEMP B-TREE" in line], plan
            used = set(re.findall(r"INDEX (events_\w+)|(PRIMARY KEY)", " ".join(plan)))
            assert {one or other for one, other in used} <= _BY.get(name, {"PRIMARY KEY"}), plan


class Statements:
    """What a connection is asked from now on."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.asked: list[tuple[str, Any]] = []
        event.listen(connection, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        self.asked.append((statement, parameters))

    def plans(self) -> list[list[str]]:
        event.remove(self._connection, "before_cursor_execute", self._note)
        return [
            [line[3] for line in self._connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            for statement, parameters in self.asked
        ]


def test_pages_go_on_where_the_last_one_ended(connection: Connection) -> None:
    for filters, matches in (FILTERS["origins"], FILTERS["queued"], FILTERS["lane"]):
        found: list[str] = []
        before = None
        while page := listing.find_events(connection, filters, 100, before):
            found += [one.request_id for one in page]
            before = page[-1].id
        assert found == [one["request_id"] for one in reversed(ALL) if matches(one)]


def test_too_many_names_are_not_looked_up_one_by_one(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_NAMES", 2)
    for name in ("origins", "account and region", "region"):
        filters, matches = FILTERS[name]
        found = listing.list_events(connection, filters, 1000)
        assert [one["request_id"] for one in found] == [one["request_id"] for one in reversed(ALL) if matches(one)][
            :1000
        ]


def test_one_event_is_shown_with_all_that_became_of_it(connection: Connection) -> None:
    number = first_of(START_MS + 9_000_000_000)
    connection.execute(
        insert(events),
        [
            row(
                0, id=number, request_id="whole", function=f"{ACCOUNT}:{REGION}:fn", qualifier="live", state="failed",
                size=8, attempt=2, trace_id="Root=1", condition="RetriesExhausted", error_type="E", error_message="m",
                ended_at=START_MS + 5, origin="replay:r", parent="older", lane="event", mode="local",
            )
        ],
    )  # fmt: skip
    connection.execute(insert(payloads), [{"event_id": number, "payload": '{"ü":1}'.encode()}])
    ended = {
        "started_at": START_MS,
        "ended_at": START_MS + 250,
        "worker": "w",
        "environment": "e",
        "version": "$LATEST",
    }
    connection.execute(
        insert(attempts),
        [
            {
                "event_id": number, "number": 2, "kind": "function_error", **ended, "error_type": "E",
                "error_message": "m", "log_tail": b"START\n\xff", "result": b"12345", "result_size": 9,
            },
            {
                "event_id": number, "number": 1, "kind": "success", **ended, "error_type": "", "error_message": "",
                "log_tail": b"", "result": b"null", "result_size": 4,
            },
        ],
    )  # fmt: skip
    sent = {
        "event_id": number, "kind": "dead-letter", "target": "arn:q", "body": b"{}", "attributes": "{}", "tries": 3,
        "due_at": START_MS + 7, "ended_at": 0, "error": "no such queue",
    }  # fmt: skip
    connection.execute(insert(deliveries), [{"id": 2, "state": "queued", **sent}, {"id": 1, "state": "failed", **sent}])
    found = listing.describe_event(connection, "", "", "whole")
    assert found is not None
    tries, out = found.pop("attempts"), found.pop("deliveries")
    assert found == {
        "request_id": "whole", "account": ACCOUNT, "region": REGION, "function": "fn", "qualifier": "live",
        "lane": "event", "state": "failed", "attempt": 2, "accepted_at": "2024-02-27T02:13:20.000Z", "due_at": None,
        "ended_at": "2023-11-14T22:13:20.005Z", "condition": "RetriesExhausted", "error_type": "E",
        "error_message": "m", "origin": "replay:r", "parent": "older", "payload_size": 8, "trace_id": "Root=1",
        "mode": "local", "fed_at": "2023-11-14T22:13:20.000Z", "payload": '{"ü":1}', "payload_encoding": "utf-8",
    }  # fmt: skip
    assert [one["number"] for one in tries] == [1, 2]
    assert tries[1] == {
        "number": 2, "kind": "function_error", "started_at": "2023-11-14T22:13:20.000Z",
        "ended_at": "2023-11-14T22:13:20.250Z", "duration_ms": 250, "worker": "w", "environment": "e",
        "version": "$LATEST", "error_type": "E", "error_message": "m", "log_tail": "START\n\ufffd", "result": "12345",
        "result_size": 9, "result_truncated": True,
    }  # fmt: skip
    assert not tries[0]["result_truncated"]
    assert [one["state"] for one in out] == ["failed", "queued"]
    assert (out[1]["due_at"], out[0]["due_at"]) == ("2023-11-14T22:13:20.007Z", None)
    for account, region in ((ACCOUNT, ""), (ACCOUNT, REGION), ("", REGION)):
        assert listing.describe_event(connection, account, region, "whole") is not None
    assert listing.describe_event(connection, "222222222222", REGION, "whole") is None
    assert listing.describe_event(connection, ACCOUNT, "us-east-1", "whole") is None
    assert listing.describe_event(connection, "", "", "nobody") is None


def test_a_payload_that_is_no_text(connection: Connection) -> None:
    connection.execute(insert(payloads), [{"event_id": ALL[7]["id"], "payload": b"\xff\x00"}])
    found = listing.describe_event(connection, "", "", "request-7")
    assert found is not None
    assert (found["payload"], found["payload_encoding"]) == ("/wA=", "base64")


def test_gauges_count_what_waits_by_the_index(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        statements = Statements(connection)
        listing.gauges(connection)
        indexes = [re.findall(r"INDEX (\w+)", " ".join(plan)) for plan in statements.plans()]
        assert indexes == [["events_queued"], ["events_fed"]]
    found = {(one.function, one.lane): one for one in listing.gauges(connection)}
    mine = [one for one in ALL if (one["function"], one["lane"]) == (f"{ACCOUNT}:{REGION}:fn4", "event")]
    queued = [number for number, one in enumerate(ALL) if one in mine and one["state"] == "queued"]
    fed = [one for one in mine if one["state"] == "fed"]
    name = f"{ACCOUNT}:{REGION}:fn4"
    assert found[name, "event"] == Gauge(name, "event", len(queued), START_MS + queued[0] * 1000, len(fed))
    connection.execute(events.delete().where(events.c.state == "queued"))
    assert {one.queued for one in listing.gauges(connection)} == {0}
    assert {one.oldest_ms for one in listing.gauges(connection)} == {None}
    connection.execute(events.delete())
    assert listing.gauges(connection) == []


# --- cancelling ---


def test_queued_ones_are_cancelled_once(connection: Connection) -> None:
    filters = Filters(ACCOUNT, REGION, "fn4")
    expected = [one["request_id"] for one in ALL if one["function"].endswith(":fn4") and one["state"] == "queued"]
    rows = cancelling.find_queued(connection, filters, None)
    ids = [one.id for one in rows]
    assert sorted(one.request_id for one in rows) == sorted(expected)
    done = cancelling.cancel_queued(connection, [*ids, ALL[0]["id"], ALL[5]["id"]], START_MS)
    assert sorted(one.request_id for one in done) == sorted(expected)
    assert cancelling.cancel_queued(connection, ids, START_MS) == []
    assert cancelling.find_queued(connection, filters, None) == []
    found = listing.describe_event(connection, "", "", expected[0])
    assert found is not None
    assert (found["state"], found["condition"], found["ended_at"]) == (
        "cancelled", "Cancelled", "2023-11-14T22:13:20.000Z",
    )  # fmt: skip
    assert connection.execute(events.select().where(events.c.request_id == "request-0")).one().state == "succeeded"


def test_batches_come_one_after_the_other(connection: Connection) -> None:
    filters = Filters(origin="replay:*", state="fed")
    before, found = None, []
    while rows := cancelling.find_queued(connection, filters, before, 5):
        assert len(rows) <= 5
        before = rows[-1].id
        found += cancelling.cancel_queued(connection, [one.id for one in rows], START_MS)
    expected = [one for one in ALL if one["origin"].startswith("replay:") and one["state"] == "queued"]
    assert len(found) == len(expected)


def test_only_the_same_attempt_in_flight_is_cancelled(connection: Connection) -> None:
    (first, *_), expected = cancelling.find_in_flight(connection, Filters()), sum(one["state"] == "fed" for one in ALL)
    assert len(cancelling.find_in_flight(connection, replace(Filters(), state="queued"))) == expected
    assert first.message.startswith("m")
    assert not cancelling.cancel_in_flight(connection, first.request_id, 1, START_MS)
    assert not cancelling.cancel_in_flight(connection, "request-4", 0, START_MS)
    assert cancelling.cancel_in_flight(connection, first.request_id, 2, START_MS)
    assert not cancelling.cancel_in_flight(connection, first.request_id, 2, START_MS)
    row = listing.find_event(connection, first.request_id)
    assert row is not None
    assert row.state == "cancelled"
    assert listing.find_event(connection, "nobody") is None
