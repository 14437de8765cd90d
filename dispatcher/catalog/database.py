"""The database behind the catalog, and the threads that talk to it.

SQLite: one thread with one connection does all the work, in the order it was asked for; a lock on a file beside the
database keeps a second process out. PostgreSQL: a few threads, each with a connection of the pool.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, StaticPool, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DataError, InterfaceError, OperationalError

from dispatcher.catalog.migrations import migrate
from dispatcher.wire.errors import AwsError

T = TypeVar("T")
P = ParamSpec("P")

_POSTGRESQL_THREADS: Final = 4
_BUSY_TIMEOUT_MS: Final = 5000
_CONNECT_TIMEOUT_S: Final = 5
_SILENCE_MS: Final = 10_000
_STATEMENT_TIMEOUT_MS: Final = 30_000


class CatalogBusy(Exception):
    """Another process holds this SQLite database."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"another dispatcher already uses {path}: SQLite serves one process. "
            "For several dispatchers use PostgreSQL (EVERWARM_DATABASE_URL=postgresql://user:password@host/database)"
        )


class Database:
    """Runs functions of a connection, each in a transaction of its own, off the event loop."""

    def __init__(self, engine: Engine, threads: int, lock: int | None) -> None:
        self._engine = engine
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="catalog")
        self._lock = lock

    @classmethod
    async def open(cls, url: str) -> "Database":
        """Connect and bring the schema up to date. Raises :class:`CatalogBusy`, ``SchemaTooNew``, or SQLAlchemy's error."""
        parsed = make_url(url)
        database = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)
        try:
            await asyncio.get_running_loop().run_in_executor(database._executor, database._migrate)
        except BaseException:
            await database.close()
            raise
        return database

    @property
    def shared(self) -> bool:
        """Whether other processes may write too."""
        return self._lock is None

    async def run(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``work(connection, …)`` in a transaction that is committed (with fsync) when this returns.

        Cancelling the caller does not stop the work. Raises what ``work`` raises, and ``ServiceException`` with status
        503 when the database can't be reached or written.
        """
        return await self.run_then(_nothing, work, *args, **kwargs)

    async def run_then(
        self,
        committed: Callable[[], None],
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As :meth:`run`; ``committed`` is called in the database's thread, also when the caller was cancelled."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._executor, self._transact, lambda connection: work(connection, *args, **kwargs), committed
        )

    def _transact(self, work: Callable[[Connection], T], committed: Callable[[], None]) -> T:
        try:
            with self._engine.begin() as connection:
                result = work(connection)
        except (OperationalError, InterfaceError) as error:
            raise AwsError("ServiceException", "The catalog's database does not answer.", status=503) from error
        except (DataError, UnicodeError) as error:
            # PostgreSQL has no NUL characters in text, and neither database has halves of surrogate pairs.
            raise AwsError("InvalidParameterValueException", "The request has text that can't be stored.") from error
        committed()
        return result

    def _migrate(self) -> None:
        with self._engine.begin() as connection:
            migrate(connection)

    async def close(self) -> None:
        """Finish the work under way, close the connections, and let go of the lock."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._executor.submit(self._engine.dispose)
        self._executor.shutdown(wait=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _nothing() -> None:
    """For :meth:`Database.run`."""


def _sqlite(url: URL) -> Database:
    if not url.database or url.database == ":memory:":
        raise ValueError("the catalog needs a file: sqlite:////absolute/path")
    path = Path(url.database)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _take_lock(path)
    try:
        # Environment variables of functions are secrets: nobody else reads the file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    except BaseException:
        os.close(lock)
        raise
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    return Database(engine, 1, lock)


def _take_lock(path: Path) -> int:
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise CatalogBusy(path) from None
    return lock


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN would come too late; see _begin_immediate
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgresql(url: URL) -> Database:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(
        url,
        pool_size=_POSTGRESQL_THREADS,
        max_overflow=0,
        pool_pre_ping=True,
        # A server that is gone without a word must not hold a thread for ever.
        connect_args={"connect_timeout": _CONNECT_TIMEOUT_S, "tcp_user_timeout": _SILENCE_MS},
    )
    event.listen(engine, "connect", _configure_postgresql)
    return Database(engine, _POSTGRESQL_THREADS, None)


def _configure_postgresql(connection: Any, _record: object) -> None:
    connection.execute(f"SET statement_timeout = {_STATEMENT_TIMEOUT_MS}")
    connection.commit()
