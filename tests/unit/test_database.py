"""What a database's refusals mean to whoever asked."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from dispatcher.sql.database import Database
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
