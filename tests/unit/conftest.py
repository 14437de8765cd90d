"""What unit tests share: databases (a test that takes ``url`` runs on SQLite and on PostgreSQL) and workers in process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.in_process import InProcessWorker, MakeWorker, in_process_workers
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database_server(request: pytest.FixtureRequest) -> PostgresServer | None:
    """``None``: SQLite needs none."""
    if request.param == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server


@pytest.fixture
def url(database_server: PostgresServer | None, tmp_path: Path) -> str:
    """An empty database."""
    if database_server is not None:
        return database_server.new_database()
    return f"sqlite:///{tmp_path / 'everwarm.db'}"


@pytest.fixture
def make_worker(redis_server: RedisServer) -> Iterator[MakeWorker]:
    with in_process_workers(redis_server) as make:
        yield make


@pytest.fixture
def worker(make_worker: MakeWorker) -> InProcessWorker:
    return make_worker()
