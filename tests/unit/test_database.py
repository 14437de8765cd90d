"""The threads of the database: what a refusal means to whoever asked, and what a read sees."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import OperationalError

from dispatcher.sql.database import Database
from dispatcher.sql.skip_scan import skip_scan
from dispatcher.sql.tables import settings
from dispatcher.sql.typed_rows import columns_of, fetch, fetch_one
from dispatcher.wire.errors import AwsError
from tests.services.postgres import PostgresServer


def ask(url: str, *works: Callable[[Connection], Any]) -> BaseException | None:
    """What the last of them raises."""

    async def run() -> BaseException | None:
        database = await Database.open(url)
        try:
            for work in works[:-1]:
                await database.write(work)
            await database.write(works[-1])
        except Exception as error:  # noqa: BLE001 - it is looked at
            return error
        finally:
            await database.close()
        return None

    return asyncio.run(run())


def do(*statements: str) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    return work


@pytest.mark.parametrize(
    "statements",
    [
        ("SET TRANSACTION READ ONLY", "CREATE TABLE x (y TEXT)"),
        ("CREATE ROLE nobody_much", "SET LOCAL ROLE nobody_much", "DELETE FROM events"),
    ],
)
def test_a_server_that_can_serve_nobody_is_unavailable(
    postgres_server: PostgresServer, statements: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    found = ask(postgres_server.new_database(), do(*statements))
    assert isinstance(found, AwsError)
    assert (found.code, found.status) == ("ServiceException", 503)
    assert "the database refuses: " in caplog.text


def test_what_is_too_much_for_it_is_no_reason_to_wait(postgres_server: PostgresServer) -> None:
    found = ask(
        postgres_server.new_database(),
        do("CREATE TABLE x (y TEXT)", "CREATE INDEX z ON x (y)"),
        do("INSERT INTO x SELECT string_agg(md5(number::text), '') FROM generate_series(1, 2000) AS number"),
    )
    assert isinstance(found, OperationalError)


# --- reading ---


class Setting(msgspec.Struct, frozen=True):
    value: str
    key: str


def using(url: str, work: Callable[[Database], Awaitable[None]]) -> None:
    async def run() -> None:
        database = await Database.open(url)
        try:
            await work(database)
        finally:
            await database.close()

    asyncio.run(run())


def values(connection: Connection) -> list[str]:
    return list(connection.execute(select(settings.c.value).order_by(settings.c.value)).scalars())


def test_whoever_awaited_a_write_reads_what_it_wrote(url: str) -> None:
    async def work(database: Database) -> None:
        for number in range(100, 150):
            await database.write(do(f"INSERT INTO settings (key, value) VALUES ('{number}', '{number}')"))
            assert (await database.read(values))[-1] == str(number)
            assert (await database.report(values))[-1] == str(number)

    using(url, work)


def test_nothing_is_written_through_a_read_or_a_report(url: str) -> None:
    async def work(database: Database) -> None:
        await database.write(do("INSERT INTO settings (key, value) VALUES ('a', 'b')"))
        for reading in (database.read, database.report):
            with pytest.raises(AwsError):
                await reading(do("DELETE FROM settings"))
            assert await reading(values) == ["b"]
        await database.write(do("DELETE FROM settings"))
        assert await database.read(values) == []

    using(url, work)


def test_neither_writes_nor_short_reads_wait_for_a_report(url: str) -> None:
    started, finish = threading.Event(), threading.Event()

    def report(connection: Connection) -> list[str]:
        before = values(connection)
        started.set()
        assert finish.wait(30)
        return before

    async def work(database: Database) -> None:
        reporting = asyncio.create_task(database.report(report))
        assert await asyncio.to_thread(started.wait, 30)
        await database.write(do("INSERT INTO settings (key, value) VALUES ('a', 'b')"))
        assert await database.read(values) == ["b"]
        finish.set()
        assert await reporting == []

    using(url, work)


def test_rows_are_structs_by_the_names_of_their_columns(url: str) -> None:
    query = select(*columns_of(Setting, settings)).order_by(settings.c.key)

    async def work(database: Database) -> None:
        await database.write(do("INSERT INTO settings (key, value) VALUES ('a', 'x'), ('b', 'y')"))
        assert await database.read(fetch, query, Setting) == [Setting("x", "a"), Setting("y", "b")]
        assert await database.read(fetch_one, query.where(settings.c.key == "b"), Setting) == Setting("y", "b")
        assert await database.read(fetch_one, query.where(settings.c.key == "c"), Setting) is None

    using(url, work)


def test_a_skip_scan_finds_each_value_once_and_in_order(url: str) -> None:
    def found(connection: Connection, first: str = "") -> list[str]:
        names = skip_scan("settings", "value", "key <> 'left out'", first)
        query = f"WITH RECURSIVE {names} SELECT name FROM names WHERE name IS NOT NULL"
        return list(connection.execute(text(query)).scalars())

    async def work(database: Database) -> None:
        assert await database.read(found) == []
        rows = ", ".join(f"('{number}', '{'cab'[number % 3]}')" for number in range(30))
        await database.write(do(f"INSERT INTO settings (key, value) VALUES {rows}, ('left out', 'aa')"))
        assert await database.read(found) == ["a", "b", "c"]
        assert await database.read(found, "value > 'a'") == ["b", "c"]

    using(url, work)
