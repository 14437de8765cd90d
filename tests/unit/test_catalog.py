"""The catalog on real databases: locks, migrations, memory, crashes."""

import asyncio
import multiprocessing
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from sqlalchemy import Connection, create_engine, inspect, text

from dispatcher.catalog import functions, lookups
from dispatcher.catalog.catalog import Catalog
from dispatcher.catalog.functions import Draft, Failure, Ready
from dispatcher.catalog.resolving import Cache, Resolution, Target, revision_of
from dispatcher.catalog.rows import Code, FunctionKey, Version
from dispatcher.sql.database import CatalogBusy
from dispatcher.sql.migrations import STEPS, VERSION, SchemaTooNew, migrate
from dispatcher.wire.errors import AwsError
from tests.services.postgres import PostgresServer

T = TypeVar("T")
KEY = FunctionKey("111111111111", "eu-central-1", "fn")
CONFIG: dict[str, Any] = {
    "Runtime": "python3.12", "Handler": "h.h", "Timeout": 3, "MemorySize": 128, "EphemeralStorage": {"Size": 512},
    "Architectures": ["x86_64"], "PackageType": "Zip", "LoggingConfig": {"LogGroup": "/aws/lambda/fn"},
    "Environment": {"Variables": {"KEY": "value"}},
}  # fmt: skip


def draft(sha256: str = "ab", **config: Any) -> Draft:
    return Draft({**CONFIG, **config}, Code(sha256=sha256, size=10), {})


def using(url: str, work: Callable[[Catalog], Awaitable[T]], **options: Any) -> T:
    async def run() -> T:
        catalog = await Catalog.open(url, **options)
        try:
            return await work(catalog)
        finally:
            await catalog.close()

    return asyncio.run(run())


# --- opening ---


def _hold(path: str, ready: Any, release: Any) -> None:
    async def run() -> None:
        catalog = await Catalog.open(f"sqlite:///{path}")
        ready.set()
        await asyncio.to_thread(release.wait, 30)
        await catalog.close()

    asyncio.run(run())


def test_a_second_process_is_refused_and_told_about_postgresql(tmp_path: Path) -> None:
    path = tmp_path / "everwarm.db"
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(path), ready, release))
    holder.start()
    try:
        assert ready.wait(30)

        async def nothing(_catalog: Catalog) -> None: ...

        with pytest.raises(CatalogBusy, match="EVERWARM_DATABASE_URL") as caught:
            using(f"sqlite:///{path}", nothing)
        assert str(path) in str(caught.value)
        release.set()
        holder.join(30)
        using(f"sqlite:///{path}", nothing)
    finally:
        release.set()
        holder.join(30)
        holder.close()


def test_sqlite_is_durable_and_private(tmp_path: Path) -> None:
    path = tmp_path / "data" / "everwarm.db"

    async def look(catalog: Catalog) -> dict[str, Any]:
        def pragmas(connection: Connection) -> dict[str, Any]:
            names = ("journal_mode", "synchronous", "foreign_keys")
            return {name: connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in names}

        return await catalog.database.write(pragmas)

    assert using(f"sqlite:///{path}", look) == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_signing_secret_outlives_the_dispatcher(url: str) -> None:
    async def secret(catalog: Catalog) -> bytes:
        return catalog.signing_secret

    first = using(url, secret)
    assert len(first) == 32
    assert using(url, secret) == first


def test_two_dispatchers_open_one_postgresql_at_once(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()

    async def run() -> set[bytes]:
        catalogs = await asyncio.gather(*(Catalog.open(url) for _ in range(3)))
        secrets = {catalog.signing_secret for catalog in catalogs}
        errors = []
        for outcome in await asyncio.gather(
            *(catalog.write(functions.create, KEY, draft()) for catalog in catalogs), return_exceptions=True
        ):
            if isinstance(outcome, BaseException):
                errors.append(outcome)
        assert [error.code for error in errors if isinstance(error, AwsError)] == ["ResourceConflictException"] * 2
        await asyncio.gather(*(catalog.close() for catalog in catalogs))
        return secrets

    assert len(asyncio.run(run())) == 1


def test_an_older_database_gets_the_tables_of_a_new_one(url: str) -> None:
    def shape(connection: Connection) -> dict[str, object]:
        found = inspect(connection)
        return {
            name: (
                {column["name"]: (str(column["type"]), column["nullable"]) for column in found.get_columns(name)},
                {index["name"]: (index["column_names"], index["unique"]) for index in found.get_indexes(name)},
                found.get_pk_constraint(name)["constrained_columns"],
            )
            for name in found.get_table_names()
        }

    ledger = ("deliveries", "attempts", "payloads", "events", "event_invoke_configs")
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as connection:
            migrate(connection)
            new = shape(connection)
            for name in ledger:
                connection.execute(text(f"DROP TABLE {name}"))
            connection.execute(text("UPDATE schema_version SET version = 1"))
        with engine.begin() as connection:
            migrate(connection)
            assert shape(connection) == new
    finally:
        engine.dispose()


def test_migrations_go_forward_and_never_back(url: str) -> None:
    def add_column(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE functions ADD COLUMN added INTEGER"))

    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as connection:
            migrate(connection)
            migrate(connection)
        with engine.begin() as connection:
            migrate(connection, (*STEPS, add_column))
        with engine.begin() as connection:
            connection.execute(text("SELECT added FROM functions"))
            assert connection.execute(text("SELECT version FROM schema_version")).scalars().all() == [VERSION + 1]
            with pytest.raises(SchemaTooNew, match="use a newer Everwarm"):
                migrate(connection)
    finally:
        engine.dispose()


def test_postgresql_gone_is_a_503_and_comes_back(own_postgres: PostgresServer) -> None:
    url = own_postgres.new_database()

    async def work(catalog: Catalog) -> None:
        await catalog.write(functions.create, KEY, draft())
        own_postgres.kill9()
        try:
            with pytest.raises(AwsError) as caught:
                await catalog.read(lookups.get_qualified, KEY, None)
            assert (caught.value.code, caught.value.status) == ("ServiceException", 503)
        finally:
            own_postgres.start()
        await catalog.read(lookups.get_qualified, KEY, None)

    using(url, work)


# --- states ---


def test_a_crash_between_create_and_active_is_taken_up_at_start(url: str) -> None:
    async def create(catalog: Catalog) -> None:
        version = await catalog.write(functions.create, KEY, draft())  # and the process ends here
        assert version.state == "Pending"

    using(url, create)

    async def wait(catalog: Catalog) -> str:
        await asyncio.gather(*catalog._activations.values())
        return (await catalog.resolve(*KEY)).state

    assert using(url, wait) == "Active"


def _create_and_hang(path: str, ready: Any) -> None:
    async def run() -> None:
        catalog = await Catalog.open(f"sqlite:///{path}")
        await catalog.write(functions.create, KEY, draft())
        ready.set()
        await asyncio.Event().wait()

    asyncio.run(run())


def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "everwarm.db"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_create_and_hang, args=(str(path), ready))
    process.start()
    assert ready.wait(30)
    process.kill()
    process.join(30)
    process.close()

    async def state(catalog: Catalog) -> str:
        await asyncio.gather(*catalog._activations.values())
        return (await catalog.resolve(*KEY)).state

    assert using(f"sqlite:///{path}", state) == "Active"


def test_an_error_while_a_function_becomes_ready_is_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.catalog.catalog._RETRY_S", 0.01)
    tries: list[str] = []
    ready = asyncio.Event()

    async def prepare(target: Target) -> Ready | Failure:
        tries.append(target.executed_version)
        if len(tries) < 3:
            raise AwsError("ServiceException", "not now", status=503)
        ready.set()
        return Ready()

    async def work(catalog: Catalog) -> None:
        await catalog.write(functions.create, KEY, draft())
        await asyncio.wait_for(ready.wait(), 10)
        await asyncio.gather(*catalog._activations.values())
        assert (await catalog.resolve(*KEY)).state == "Active"

    using(f"sqlite:///{tmp_path / 'everwarm.db'}", work, prepare=prepare)
    assert tries == ["$LATEST"] * 3


def test_while_a_function_is_not_ready_changes_are_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'everwarm.db'}"
    gate = asyncio.Event()
    end: list[Ready | Failure] = [Ready()]

    async def prepare(_target: Target) -> Ready | Failure:
        await gate.wait()
        return end[0]

    async def refused(work: Awaitable[object]) -> str:
        with pytest.raises(AwsError) as caught:
            await work
        assert caught.value.code == "ResourceConflictException"
        return caught.value.message

    async def work(catalog: Catalog) -> None:
        def change() -> Awaitable[Version]:
            return catalog.write(
                functions.update_configuration, KEY, None, lambda latest: {**latest.config, "Timeout": 9}
            )

        await catalog.write(functions.create, KEY, draft())
        task = catalog.activate(KEY)
        pending = (
            "The operation cannot be performed at this time. The function is currently in the following state: Pending"
        )
        assert await refused(change()) == pending
        assert await refused(catalog.write(functions.publish, KEY, None, None, None)) == pending
        assert (await catalog.resolve(*KEY)).state == "Pending"
        gate.set()
        await task
        assert (await catalog.resolve(*KEY)).state == "Active"
        gate.clear()
        await change()
        task = catalog.activate(KEY)
        assert await refused(change()) == (
            f"The operation cannot be performed at this time. An update is in progress for resource: {KEY.arn()}"
        )
        end[0] = Failure("InvalidImage", "because")
        gate.set()
        await task
        _, latest = await catalog.read(lookups.get_qualified, KEY, None)
        assert (latest.state, latest.update_status, latest.update_reason) == ("Active", "Failed", "because")
        await change()

    using(url, work, prepare=prepare)


def test_closing_cancels_what_is_under_way(tmp_path: Path) -> None:
    async def prepare(_target: Target) -> Ready | Failure:
        await asyncio.Event().wait()
        raise AssertionError

    async def work(catalog: Catalog) -> None:
        await catalog.write(functions.create, KEY, draft())
        catalog.activate(KEY)
        await asyncio.sleep(0)

    using(f"sqlite:///{tmp_path / 'everwarm.db'}", work, prepare=prepare)


# --- resolving ---


def test_resolving_is_in_memory_until_a_write(url: str) -> None:
    async def work(catalog: Catalog) -> None:
        await catalog.write(functions.create, KEY, draft())
        await catalog.activate(KEY)
        first = await catalog.resolve(*KEY)
        read, catalog.read = catalog.read, None  # type: ignore[assignment,method-assign]
        assert await catalog.resolve(*KEY) is first
        catalog.read = read  # type: ignore[method-assign]
        await catalog.write(functions.update_code, KEY, None, Code(sha256="cd"), None, publish=False, dry_run=False)
        second = await catalog.resolve(*KEY)
        assert second.spec.code_sha256 == "cd"
        assert second.spec.revision != first.spec.revision
        await catalog.write(functions.delete_function, KEY)
        with pytest.raises(AwsError) as caught:
            await catalog.resolve(*KEY)
        assert caught.value.message == f"Function not found: {KEY.arn('$LATEST')}"

    using(url, work)


def test_another_dispatchers_write_is_seen_within_a_second(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()

    async def run() -> None:
        one, two = await Catalog.open(url), await Catalog.open(url)
        try:
            await one.write(functions.create, KEY, draft())
            await one.activate(KEY)
            await two.resolve(*KEY)
            await one.write(functions.delete_function, KEY)
            loop = asyncio.get_running_loop()
            deadline = loop.time() + 3
            while loop.time() < deadline:
                try:
                    await two.resolve(*KEY)
                except AwsError:
                    return
                await asyncio.sleep(0.05)
            raise AssertionError("still resolved after 3 s")
        finally:
            await one.close()
            await two.close()

    asyncio.run(run())


def test_an_answer_read_before_a_write_is_not_remembered_after_it() -> None:
    cache = Cache(None)
    resolution = Resolution(main=None)  # type: ignore[arg-type]
    generation = cache.generation
    cache.forget(KEY)
    cache.put(KEY, None, resolution, generation)
    assert cache.get(KEY, None) is None
    cache.put(KEY, None, resolution, cache.generation)
    assert cache.get(KEY, None) is resolution
    assert cache.get(KEY, "1") is None


def test_an_answer_is_not_remembered_when_a_write_ends_in_the_middle_of_that() -> None:
    def clock() -> float:
        cache.forget(KEY)
        return 0.0

    cache = Cache(None, clock)
    cache.put(KEY, None, Resolution(main=None), cache.generation)  # type: ignore[arg-type]
    assert cache.get(KEY, None) is None


def test_entries_of_shared_databases_live_a_second() -> None:
    now = [0.0]
    cache = Cache(1.0, lambda: now[0])
    cache.put(KEY, None, Resolution(main=None), 0)  # type: ignore[arg-type]
    now[0] = 1.0
    assert cache.get(KEY, None) is not None
    now[0] = 1.01
    assert cache.get(KEY, None) is None


def test_revision_covers_the_whole_spec(tmp_path: Path) -> None:
    async def work(catalog: Catalog) -> None:
        await catalog.write(functions.create, KEY, draft())
        spec = (await catalog.resolve(*KEY)).spec
        assert spec.revision == revision_of(spec)
        assert len(spec.revision) == 32
        for field in spec.__struct_fields__:
            if field != "revision":
                value = getattr(spec, field)
                other: Any = (
                    {"x": "y"}
                    if isinstance(value, dict)
                    else (*value, "x")
                    if isinstance(value, tuple)
                    else value + value + type(value)(1)
                )
                assert revision_of(msgspec.structs.replace(spec, **{field: other})) != spec.revision, field

    using(f"sqlite:///{tmp_path / 'everwarm.db'}", work)


def test_a_failed_transaction_leaves_nothing(url: str) -> None:
    async def work(catalog: Catalog) -> None:
        too_many = Draft(CONFIG, Code(sha256="ab"), {str(n): "" for n in range(51)})
        with pytest.raises(AwsError):
            await catalog.write(functions.create, KEY, too_many)
        with pytest.raises(AwsError):
            await catalog.resolve(*KEY)

    using(url, work)


def test_code_in_use_is_that_of_every_version(url: str) -> None:
    async def work(catalog: Catalog) -> set[str]:
        await catalog.write(functions.create, KEY, draft("aa", Description=""))
        await catalog.activate(KEY)
        await catalog.write(functions.publish, KEY, None, None, None)
        await catalog.write(functions.update_code, KEY, None, Code(sha256="bb"), None, publish=False, dry_run=False)
        return await catalog.code_in_use()

    assert using(url, work) == {"aa", "bb"}
