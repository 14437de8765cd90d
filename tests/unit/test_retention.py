"""What the ledger deletes, and what it never does; on both databases."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection, Engine, create_engine, func, insert, select, update

from dispatcher import settings
from dispatcher.clock import Clock
from dispatcher.ledger import retention
from dispatcher.ledger.ids import first_of
from dispatcher.ledger.ledger import Ledger
from dispatcher.ledger.retention import Pruner, used_bytes
from dispatcher.settings import Retention
from dispatcher.sql.database import Database
from dispatcher.sql.migrations import migrate
from dispatcher.sql.tables import attempts, deliveries, events, payloads
from tests.services.postgres import PostgresServer
from tests.unit.test_ledger_listing import row
from workers.contract.settings import SettingError

NOW_MS: Final = 1_800_000_000_000
DAY_MS: Final = 86_400_000


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> PostgresServer | None:
    return request.getfixturevalue("postgres_server") if request.param == "postgresql" else None


@pytest.fixture
def url(server: PostgresServer | None, tmp_path: Path) -> str:
    if server is None:
        return f"sqlite:///{tmp_path / 'everwarm.db'}"
    return server.new_database().replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    with engine.begin() as connection:
        migrate(connection)
    yield engine
    engine.dispose()


def add(connection: Connection, *states: str, age_ms: int = 0, payload: bytes = b"{}", first: int = 0) -> None:
    """Events, a second apart, the oldest first; with a payload, and an attempt when they have ended."""
    start_ms = NOW_MS - age_ms
    rows = [
        row(
            0,
            id=first_of(start_ms + number * 1000),
            request_id=f"r{first + number}",
            state=state,
            error_type="",
            origin="",
        )
        for number, state in enumerate(states)
    ]
    connection.execute(insert(events), rows)
    connection.execute(insert(payloads), [{"event_id": one["id"], "payload": payload} for one in rows])
    connection.execute(
        insert(attempts),
        [
            {
                "event_id": one["id"], "number": 1, "kind": "success", "started_at": 0, "ended_at": 0, "worker": "",
                "environment": "", "version": "", "error_type": "", "error_message": "", "log_tail": b"", "result": b"",
                "result_size": 0,
            }
            for one in rows
        ],
    )  # fmt: skip


def deliver(connection: Connection, request_id: str, state: str) -> None:
    number = connection.execute(select(events.c.id).where(events.c.request_id == request_id)).scalar_one()
    connection.execute(
        insert(deliveries),
        [
            {
                "id": number, "event_id": number, "kind": "dead-letter", "target": "", "body": b"", "attributes": "{}",
                "state": state, "tries": 0, "due_at": 0, "ended_at": 0, "error": "",
            }
        ],
    )  # fmt: skip


def left(connection: Connection) -> list[str]:
    """Request ids; and whatever belongs to an event is gone with it."""
    ids = set(connection.execute(select(events.c.id)).scalars())
    assert set(connection.execute(select(payloads.c.event_id)).scalars()) == ids
    assert set(connection.execute(select(attempts.c.event_id)).scalars()) == ids
    assert set(connection.execute(select(deliveries.c.event_id)).scalars()) <= ids
    return list(connection.execute(select(events.c.request_id).order_by(events.c.id)).scalars())


class _Then(Clock):
    @staticmethod
    def now_ms() -> int:
        return NOW_MS


def prune(url: str, limits: Retention) -> int:
    """How many events a pruner deletes, until nothing is left to do."""

    async def run() -> int:
        database = await Database.open(url)
        ledger = Ledger(database, _Then(), retry_base_s=60, result_bytes=100, directory=None)
        try:
            pruner, deleted = Pruner(ledger, limits), 0
            while count := await pruner.delete_round():
                deleted += count
            return deleted
        finally:
            await database.close()

    return asyncio.run(run())


def test_by_age_what_has_ended_goes_and_nothing_else(url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_BATCH", 3)
    with engine.begin() as connection:
        add(connection, "succeeded", "failed", "cancelled", "queued", "fed", "failed", "failed", age_ms=8 * DAY_MS)
        add(connection, "succeeded", "failed", age_ms=6 * DAY_MS, first=7)
        deliver(connection, "r5", "queued")
        deliver(connection, "r6", "failed")
    assert prune(url, Retention(age_s=7 * 86_400)) == 4
    with engine.begin() as connection:
        assert left(connection) == ["r3", "r4", "r5", "r7", "r8"]


def test_by_number_failed_ones_go_last(url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_BATCH", 2)
    with engine.begin() as connection:
        add(
            connection,
            "failed",
            "succeeded",
            "queued",
            "failed",
            "cancelled",
            "succeeded",
            "fed",
            "succeeded",
            "failed",
        )
    for most, deleted, expected in (
        (9, 0, ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"]),
        (7, 2, ["r0", "r2", "r3", "r5", "r6", "r7", "r8"]),
        (4, 3, ["r2", "r3", "r6", "r8"]),
        (1, 2, ["r2", "r6"]),
    ):
        assert prune(url, Retention(events=most)) == deleted
        with engine.begin() as connection:
            assert left(connection) == expected


def test_by_size_as_much_as_is_needed(url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_BATCH", 50)
    monkeypatch.setattr(retention, "_ROUND", 100)
    incompressible = bytes(range(256)) * 4
    with engine.begin() as connection:
        empty = used_bytes(connection)
        add(connection, *["succeeded"] * 500, "failed", "queued", payload=incompressible)
    with engine.begin() as connection:
        full = used_bytes(connection)
    assert full - empty > 400 * 1024
    limit = empty + (full - empty) // 2
    assert prune(url, Retention(bytes=full + 1)) == 0
    assert prune(url, Retention(bytes=limit))
    with engine.begin() as connection:
        # Without an end to it, everything would go on a server whose files never become smaller.
        assert 150 < len(left(connection)) < 350
        assert used_bytes(connection, limit) <= limit
        assert left(connection)[-2:] == ["r500", "r501"]


def test_sqlite_uses_freed_pages_again(tmp_path: Path) -> None:
    path = tmp_path / "everwarm.db"
    url = f"sqlite:///{path}"
    engine = create_engine(url)
    sizes = []
    with engine.begin() as connection:
        migrate(connection)
    for number in range(4):
        with engine.begin() as connection:
            add(connection, *["succeeded"] * 300, payload=b"x" * 2000, age_ms=(9 - number) * DAY_MS, first=number * 300)
        engine.dispose()  # the last connection puts the log into the file
        sizes.append(path.stat().st_size)
        assert prune(url, Retention(age_s=3600)) == 300
    assert sizes[3] < 1.1 * sizes[0]


def test_a_pruner_goes_on_until_nothing_is_left_to_do(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_BATCH", 20)
    monkeypatch.setattr(retention, "_ROUND", 50)
    states = ["failed" if number % 3 == 0 else "succeeded" for number in range(300)]

    async def run() -> tuple[list[str], int]:
        database = await Database.open(url)
        ledger = Ledger(database, Clock(), retry_base_s=60, result_bytes=100, directory=None)
        try:
            await ledger.write(add, *states)
            await ledger.write(_make_old, 30)
            pruner = Pruner(ledger, Retention(age_s=86_400, events=120))
            rounds = 0
            while await pruner.delete_round():
                rounds += 1
            task = asyncio.create_task(pruner.step())
            await asyncio.sleep(0.2)
            task.cancel()
            return await ledger.read(left), rounds
        finally:
            await database.close()

    found, rounds = asyncio.run(run())
    assert len(found) == 120
    # 30 by age; of the 150 that are too many none that failed.
    assert found[:30] == [f"r{number}" for number in range(30, 300) if number % 3 == 0][:30]
    assert rounds == 3


def _make_old(connection: Connection, count: int) -> None:
    """Events of the tests are accepted in the year 2027."""
    ids = list(connection.execute(select(events.c.id).order_by(events.c.id).limit(count)).scalars())
    for table, column in ((events, "id"), (payloads, "event_id"), (attempts, "event_id")):
        where = table.c[column].in_(ids)
        shift = (NOW_MS - DAY_MS) * 1000 << 10
        connection.execute(update(table).where(where).values({column: table.c[column] - shift}))
    assert connection.execute(select(func.count()).select_from(events)).scalar_one() == 300


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("7d,1000000,10G", Retention(604_800, 1_000_000, 10 << 30)),
        ("10GB , 90m", Retention(5400, None, 10 << 30)),
        ("5", Retention(None, 5, None)),
        ("36h", Retention(129_600, None, None)),
        ("1m,1M", Retention(60, None, 1 << 20)),
        ("30s,512K", Retention(30, None, 512 << 10)),
    ],
)
def test_the_retention_setting_is_read_and_written_the_same(text: str, limits: Retention) -> None:
    found = settings.read({"EVERWARM_LEDGER_RETENTION": text}).ledger_retention
    assert found == limits
    assert settings.parse_retention(str(found)) == limits


@pytest.mark.parametrize(
    "text", ["0", "0d", "0G", "7d,8d", "1,2", "1G,1M", ",", "7w", "10g", "-1", "1.5d", "5B", "5dB", "x"]
)
def test_a_setting_that_is_none(text: str) -> None:
    with pytest.raises(SettingError, match="must be an age"):
        settings.read({"EVERWARM_LEDGER_RETENTION": text})


def test_the_default_retention_is_a_week(tmp_path: Path) -> None:
    found: Any = settings.read({}).ledger_retention
    assert str(found) == "7d,1000000,10G"
