"""Databases for unit tests: each test that takes ``url`` runs on SQLite and on PostgreSQL."""

from pathlib import Path

import pytest

from tests.services.postgres import PostgresServer


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
