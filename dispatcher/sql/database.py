"""The threads that talk to the database.

SQLite: one thread with one connection does all the writing, in the order it was asked for. What was asked for while it was
busy it commits together: one fsync for all (group commit), each piece of work in a savepoint, so that a failing one takes
no other with it. Reads have a second connection and reports a third, which WAL lets see the last commit without waiting:
whoever has awaited a write reads what it wrote. A lock on a file beside the database keeps a second process out, because a
second writer makes the slowest commits 25 times slower.
PostgreSQL: a few threads, each with a connection of the pool; those that read do so in read-only transactions.
"""

import asyncio
import fcntl
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine, StaticPool, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DatabaseError, DataError, DBAPIError, InterfaceError, InternalError, OperationalError

from dispatcher.sql.migrations import migrate
from dispatcher.wire.errors import AwsError

T = TypeVar("T")
P = ParamSpec("P")

#: Threads of one dispatcher with a connection each, by what they do.
_POSTGRESQL_WRITERS: Final = 4
_POSTGRESQL_READERS: Final = 2
_POSTGRESQL_REPORTERS: Final = 1
#: Most pieces of work in one commit.
_GROUP: Final = 64
#: The page cache of SQLite's writer, because the ledger's index of request ids is written all over.
_CACHE_KB: Final = 16 * 1024
_BUSY_TIMEOUT_MS: Final = 5000
_CONNECT_TIMEOUT_S: Final = 5
_SILENCE_MS: Final = 10_000
_STATEMENT_TIMEOUT_MS: Final = 30_000
_IDLE_MS: Final = 10_000
_WARN_S: Final = 10.0
#: Classes of errors in appendix A of PostgreSQL's manual: a statement is too much for the server, which no waiting cures; and
#: the user lacks a right.
_LIMIT_EXCEEDED: Final = "54"
_NO_RIGHT: Final = "42501"

log = logging.getLogger(__name__)


class CatalogBusy(Exception):
    """Another process has this SQLite database open."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"another dispatcher already uses {path}: SQLite serves one process. "
            "For several dispatchers use PostgreSQL (EVERWARM_DATABASE_URL=postgresql://user:password@host/database)"
        )


class Database:
    """Runs functions of a connection, each in a transaction, off the event loop."""

    def __init__(
        self, engine: Engine, writer: "Worker", reader: "Worker", reporter: "Worker", lock: int | None
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._reader = reader
        self._reporter = reporter
        self._lock = lock
        self._warn_at = 0.0

    @classmethod
    async def open(cls, url: str) -> "Database":
        """Connect and bring the schema up to date. Raises :class:`CatalogBusy`, ``SchemaTooNew``, or SQLAlchemy's error."""
        parsed = make_url(url)
        database = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)
        try:
            await asyncio.to_thread(database._migrate)
        except BaseException:
            await database.close()
            raise
        return database

    @property
    def shared(self) -> bool:
        """Whether other processes may write too."""
        return self._lock is None

    @property
    def directory(self) -> Path | None:
        """Where the database's files are; None when a server keeps them."""
        name = self._engine.url.database
        return Path(name).parent if self._lock is not None and name else None

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work(connection, …)`` in a transaction that is committed (with fsync) when this returns.

        Cancelling the caller does not stop the work. Raises what ``work`` raises, ``InvalidParameterValueException`` for
        text that can't be stored, and ``ServiceException`` with status 503 when the database can't be reached or written.
        """
        return await self.write_then(_nothing, work, *args, **kwargs)

    async def write_then(
        self,
        committed: Callable[[], None],
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Write as :meth:`write` does; ``committed`` is called in the writer's thread, also when the caller was cancelled."""
        return await self._submit(self._writer, lambda connection: work(connection, *args, **kwargs), committed)

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work(connection, …)``, which changes nothing and is short: others wait for the reader, commits never do.

        Every write that was awaited before is seen. Raises as :meth:`write`.
        """
        return await self._submit(self._reader, lambda connection: work(connection, *args, **kwargs), _nothing)

    async def report(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read as :meth:`read` does, for work that may take its time: neither commits nor short reads wait for it."""
        return await self._submit(self._reporter, lambda connection: work(connection, *args, **kwargs), _nothing)

    async def _submit(self, worker: "Worker", work: Callable[[Connection], T], committed: Callable[[], None]) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        worker.submit(Work(work, committed, loop, future))
        try:
            return await future
        except (DataError, UnicodeError) as error:
            # PostgreSQL has no NUL characters in text, and neither database has halves of surrogate pairs.
            raise AwsError("InvalidParameterValueException", "The request has text that can't be stored.") from error
        except DBAPIError as error:
            if not is_unavailable(error):
                raise
            self._warn_why(error)
            raise AwsError("ServiceException", "The database does not answer.", status=503) from error

    def _warn_why(self, error: DBAPIError) -> None:
        """Log the reason now and then, because callers are many and the reason stays the same."""
        now = time.monotonic()
        if now > self._warn_at:
            self._warn_at = now + _WARN_S
            log.warning("the database refuses: %s", str(error.orig).partition("\n")[0])

    def _migrate(self) -> None:
        with self._engine.begin() as connection:
            migrate(connection)

    async def close(self) -> None:
        """Finish the work under way, close the connections, and let go of the lock."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._reporter.close()
        self._reader.close()
        self._writer.close()
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def is_unavailable(error: DBAPIError) -> bool:
    """Whether the database can serve nobody at the moment, because it is gone, read-only (a failover), full, or broken."""
    state = str(getattr(error.orig, "sqlstate", "") or "")
    if isinstance(error, OperationalError | InterfaceError):
        return not state.startswith(_LIMIT_EXCEEDED)
    # An InternalError is a read-only transaction, one that was idle for too long, or corrupted data, which is a plain
    # DatabaseError on SQLite.
    return isinstance(error, InternalError) or type(error) is DatabaseError or state == _NO_RIGHT


@dataclass(frozen=True, slots=True)
class Work(Generic[T]):
    """One piece of work, and who waits for it."""

    function: Callable[[Connection], T]
    committed: Callable[[], None]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[T]"


class Worker(Protocol):
    """Takes work, does it in threads of its own, and resolves its futures on their loops."""

    def submit(self, work: Work[Any]) -> None:
        """Queue the work to be done soon."""

    def close(self) -> None:
        """Finish what was submitted, and take no more."""


def _resolve(ended: Sequence[tuple[Work[Any], Any, BaseException | None]]) -> None:
    for work, result, error in ended:
        if work.future.done():
            continue  # its caller was cancelled
        if error is None:
            work.future.set_result(result)
        else:
            work.future.set_exception(error)


def _resolve_soon(ended: Sequence[tuple[Work[Any], Any, BaseException | None]]) -> None:
    if ended:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            ended[0][0].loop.call_soon_threadsafe(_resolve, ended)


class _Pool:
    """Threads with a connection each; every piece of work is a transaction of its own."""

    def __init__(self, engine: Engine, threads: int, name: str) -> None:
        self._engine = engine
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def submit(self, work: Work[Any]) -> None:
        self._executor.submit(self._do_work, work)

    def _do_work(self, work: Work[Any]) -> None:
        result, failure = None, None
        try:
            with self._engine.begin() as connection:
                result = work.function(connection)
            work.committed()
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            failure = error
        _resolve_soon([(work, result, failure)])

    def close(self) -> None:
        self._executor.shutdown(wait=True)
        self._engine.dispose()


class _GroupCommitter:
    """SQLite's one writer thread, with group commits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pending: queue.SimpleQueue[Work[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._commit_groups, name="writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work[Any]) -> None:
        self._pending.put(work)

    def close(self) -> None:
        self._pending.put(None)
        self._thread.join()

    def _commit_groups(self) -> None:
        while True:
            group = self._next_group()
            works = [work for work in group if work is not None]
            if works:
                _resolve_soon(self._commit(works))
            if None in group:
                return

    def _next_group(self) -> list[Work[Any] | None]:
        group = [self._pending.get()]
        while len(group) < _GROUP:
            try:
                group.append(self._pending.get_nowait())
            except queue.Empty:
                break
        return group

    def _commit(self, works: list[Work[Any]]) -> list[tuple[Work[Any], Any, BaseException | None]]:
        ended: list[tuple[Work[Any], Any, BaseException | None]] = []
        try:
            with self._engine.begin() as connection:
                for work in works:
                    ended.append(self._do_work(connection, work, alone=len(works) == 1))
                if len(works) == 1 and ended[0][2] is not None:
                    raise ended[0][2]  # rolls back
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            # What had failed before keeps its own reason; nothing else is on disk.
            failed = {id(work): reason for work, _, reason in ended if reason is not None}
            return [(work, None, failed.get(id(work), error)) for work in works]
        for work, _, failure in ended:
            if failure is None:
                work.committed()
        return ended

    @staticmethod
    def _do_work(
        connection: Connection, work: Work[Any], *, alone: bool
    ) -> tuple[Work[Any], Any, BaseException | None]:
        if alone:
            try:
                return work, work.function(connection), None
            except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                return work, None, error
        connection.exec_driver_sql("SAVEPOINT work")
        try:
            result = work.function(connection)
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            # A disk that is full has rolled back everything by now: then this fails too, and with it the group.
            connection.exec_driver_sql("ROLLBACK TO work")
            connection.exec_driver_sql("RELEASE work")
            return work, None, error
        connection.exec_driver_sql("RELEASE work")
        return work, result, None


def _nothing() -> None:
    """Stand in where nothing is to be done after a commit."""


def _sqlite(url: URL) -> Database:
    if not url.database or url.database == ":memory:":
        raise ValueError("the catalog needs a file: sqlite:////absolute/path")
    path = Path(url.database)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _take_lock(path)
    try:
        # Environment variables of functions are secrets: nobody else reads the file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        engine = _sqlite_engine(url)
    except BaseException:
        os.close(lock)
        raise
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    reader, reporter = (_Pool(_sqlite_reading_engine(url), 1, name) for name in ("reader", "reporter"))
    return Database(engine, _GroupCommitter(engine), reader, reporter, lock)


def _sqlite_reading_engine(url: URL) -> Engine:
    engine = _sqlite_engine(url)
    event.listen(engine, "connect", _configure_reader)
    event.listen(engine, "begin", _begin)
    return engine


def _sqlite_engine(url: URL) -> Engine:
    # Errors go into the log, and the values in a statement are payloads and variables of functions.
    return create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False}, hide_parameters=True)


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
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "wal_autocheckpoint=8000",
        f"cache_size=-{_CACHE_KB}",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")


def _configure_reader(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA query_only=ON")
    connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgresql(url: URL) -> Database:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(
        url,
        pool_size=_POSTGRESQL_WRITERS + _POSTGRESQL_READERS + _POSTGRESQL_REPORTERS,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,
        # A server that is gone without a word must not block a thread for ever.
        connect_args={"connect_timeout": _CONNECT_TIMEOUT_S, "tcp_user_timeout": _SILENCE_MS},
    )
    event.listen(engine, "connect", _configure_postgresql)
    reading = engine.execution_options(postgresql_readonly=True)
    return Database(
        engine,
        _Pool(engine, _POSTGRESQL_WRITERS, "writer"),
        _Pool(reading, _POSTGRESQL_READERS, "reader"),
        _Pool(reading, _POSTGRESQL_REPORTERS, "reporter"),
        None,
    )


def _configure_postgresql(connection: Any, _record: object) -> None:
    connection.execute(f"SET statement_timeout = {_STATEMENT_TIMEOUT_MS}")
    # A dispatcher that was frozen in the middle of a transaction must not keep its locks from the others.
    connection.execute(f"SET idle_in_transaction_session_timeout = {_IDLE_MS}")
    connection.commit()
