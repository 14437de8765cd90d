"""The schema's version, and the steps that bring an older database forward at start. There is no way back."""

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, insert, inspect, select, text, update

from dispatcher.catalog.tables import metadata, schema_version

#: Step ``n`` (counted from 0) turns version n + 1 into version n + 2. A step never uses ``tables``, which may be newer.
STEPS: Final[tuple[Callable[[Connection], None], ...]] = ()
VERSION: Final = len(STEPS) + 1
#: Key of PostgreSQL's advisory lock: dispatchers that start together migrate one after the other.
_LOCK: Final = 0x45564552


class SchemaTooNew(Exception):
    """A newer Everwarm wrote this database."""

    def __init__(self, found: int, known: int = VERSION) -> None:
        super().__init__(
            f"the database has schema version {found}, and this Everwarm knows {known}: use a newer Everwarm"
        )


def migrate(connection: Connection, steps: tuple[Callable[[Connection], None], ...] = STEPS) -> None:
    """Create the tables in an empty database, or run the steps that are missing; all in the caller's transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    known = len(steps) + 1
    if not inspect(connection).has_table("schema_version"):
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(version=known))
        return
    found = connection.execute(select(schema_version.c.version)).scalar_one()
    if found > known:
        raise SchemaTooNew(found, known)
    for step in steps[found - 1 :]:
        step(connection)
    if found < known:
        connection.execute(update(schema_version).values(version=known))
