"""The catalog of one dispatcher.

:class:`Catalog` runs this package's functions off the event loop, invalidates what :meth:`Catalog.resolve` remembers, and
makes new and changed functions ready in the background.
"""

import asyncio
import logging
import random as _random
import secrets
from collections.abc import Awaitable, Callable
from typing import Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from dispatcher.catalog import functions
from dispatcher.catalog.functions import Failure, Ready
from dispatcher.catalog.resolving import SHARED_TTL_S, Cache, Resolution, Target, resolve
from dispatcher.catalog.rows import FunctionKey
from dispatcher.sql.database import Database
from dispatcher.sql.tables import settings
from dispatcher.wire.errors import AwsError

T = TypeVar("T")
P = ParamSpec("P")

#: Makes a version ready to run (checks, image pulls).
Prepare = Callable[[Target], Awaitable[Ready | Failure]]

_log: Final = logging.getLogger(__name__)
_SIGNING_SECRET: Final = "signing_secret"
#: How often unfinished functions are looked for: those that could not be made ready, and those that another dispatcher left.
_RETRY_S: Final = 10.0


async def _prepare(target: Target) -> Ready | Failure:
    """Answer without workers to ask: a zip was checked before it was accepted, and nobody has images."""
    if target.spec.image_uri:
        return Failure("InvalidConfiguration", "Container images need a docker mode, which this server does not have.")
    return Ready()


class Catalog:
    """The dispatcher's catalog. Open it with :meth:`open`, and :meth:`close` it."""

    def __init__(self, database: Database, prepare: Prepare) -> None:
        self._database = database
        self._prepare = prepare
        self._cache = Cache(SHARED_TTL_S if database.shared else None)
        self._activations: dict[FunctionKey, asyncio.Task[None]] = {}
        self._upkeep: asyncio.Task[None] | None = None
        self.signing_secret = b""
        """Signs the URLs of code; the same for all dispatchers of one database."""

    @classmethod
    async def open(cls, url: str, prepare: Prepare = _prepare) -> "Catalog":
        """Open the database at SQLAlchemy's ``url``, and take up what a crash left unfinished.

        Raises ``CatalogBusy`` when another process has the SQLite file, ``SchemaTooNew`` when a newer Everwarm wrote the
        database, and ``AwsError`` or SQLAlchemy's error when the database can't be used.
        """
        catalog = cls(await Database.open(url), prepare)
        try:
            catalog.signing_secret = bytes.fromhex(await catalog.database.write(get_or_create_signing_secret))
            await catalog.activate_unfinished()
            catalog._upkeep = asyncio.create_task(catalog._keep_activating(), name="catalog upkeep")
        except BaseException:
            await catalog.close()
            raise
        return catalog

    @property
    def generation(self) -> int:
        """A number that grows with every write of this process; what was read at an older one may have changed."""
        return self._cache.generation

    @property
    def database(self) -> Database:
        """The database of the catalog, for the ledger beside it."""
        return self._database

    @property
    def shared(self) -> bool:
        """Whether other dispatchers may write to the same database."""
        return self._database.shared

    async def close(self) -> None:
        """Cancel what is under way in the background, and close the database."""
        tasks = [*self._activations.values(), *([self._upkeep] if self._upkeep else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._database.close()

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one of this package's functions that change nothing; every write that was awaited before is seen."""
        return await self._database.read(work, *args, **kwargs)

    async def write(
        self,
        work: Callable[Concatenate[Connection, FunctionKey, P], T],
        key: FunctionKey,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run one of this package's functions that change the function ``key``.

        When this returns the change is on disk, and the next :meth:`resolve` sees it.
        """
        return await self._database.write_then(
            lambda: self._cache.forget(key), lambda connection: work(connection, key, *args, **kwargs)
        )

    async def resolve(
        self,
        account: str,
        region: str,
        name: str,
        qualifier: str | None = None,
        *,
        random: Callable[[], float] = _random.random,
    ) -> Target:
        """What a call runs; where an alias has weights, ``random()`` picks a version.

        Raises ``ResourceNotFoundException`` when there is no such function or qualifier.
        """
        key = FunctionKey(account, region, name)
        found = self._cache.get(key, qualifier)
        if found is None:
            generation = self._cache.generation
            found = await self.read(resolve, key, qualifier)
            self._cache.put(key, qualifier, found, generation)
        return found.pick(random)

    def cached(self, key: FunctionKey, qualifier: str | None) -> Resolution | None:
        """What :meth:`resolve` remembers, or None. May be called from any thread."""
        return self._cache.get(key, qualifier)

    async def code_in_use(self) -> set[str]:
        """Hex SHA-256 of every zip that some version needs."""
        return await self.read(functions.code_in_use)

    async def activate_unfinished(self) -> None:
        """Take up every function that is Pending or InProgress: after a crash, an error, or another dispatcher's end."""
        for key in await self.read(functions.unfinished):
            if key not in self._activations:
                self.activate(key)

    async def _keep_activating(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_S)
            try:
                await self.activate_unfinished()
            except AwsError as error:
                _log.warning("looking for unfinished functions failed: %s", error)

    def activate(self, key: FunctionKey) -> asyncio.Task[None]:
        """Make a new or changed function ready in the background; awaiting the task waits for it."""
        before = self._activations.get(key)
        task = asyncio.create_task(self._activate(key, before), name=f"activate {key.name}")
        self._activations[key] = task
        task.add_done_callback(lambda done: self._activated(key, done))
        return task

    def _activated(self, key: FunctionKey, task: "asyncio.Task[None]") -> None:
        if self._activations.get(key) is task:
            del self._activations[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            # The function stays Pending or InProgress, and upkeep takes it up again.
            _log.error("%s could not be made ready", key.arn(), exc_info=error)

    async def _activate(self, key: FunctionKey, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await asyncio.wait([before])
        for version in await self.read(functions.pending_versions, key):
            try:
                target = await self.resolve(key.account, key.region, key.name, version.name)
            except AwsError:
                continue  # the function was deleted meanwhile
            await self.write(functions.finish_activation, key, version, await self._prepare(target))


def get_or_create_signing_secret(connection: Connection) -> str:
    """The secret of this database in hex; the first dispatcher that asks makes it."""
    query = select(settings.c.value).where(settings.c.key == _SIGNING_SECRET)
    found = connection.execute(query).scalar_one_or_none()
    if found is not None:
        return str(found)
    try:
        with connection.begin_nested():
            connection.execute(insert(settings).values(key=_SIGNING_SECRET, value=secrets.token_hex(32)))
    except IntegrityError:
        _log.debug("another dispatcher made the signing secret first")
    return str(connection.execute(query).scalar_one())
