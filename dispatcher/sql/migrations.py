"""The schema's version, and the steps that bring an older database forward at start. There is no way back."""

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, insert, inspect, select, text, update

from dispatcher.sql.tables import metadata, schema_version

#: Types in the two databases: key of the ledger's rows, text that is compared byte by byte, and bytes.
_TYPES: Final = {
    "sqlite": {"id": "INTEGER", "name": "VARCHAR", "blob": "BLOB"},
    "postgresql": {"id": "BIGINT", "name": 'VARCHAR COLLATE "C"', "blob": "BYTEA"},
}
_LEDGER: Final = """
CREATE TABLE event_invoke_configs ( function_id INTEGER NOT NULL, qualifier {name} NOT NULL, maximum_age_s INTEGER,
  maximum_retries INTEGER, on_success TEXT NOT NULL, on_failure TEXT NOT NULL, last_modified BIGINT NOT NULL, PRIMARY
  KEY (function_id, qualifier), FOREIGN KEY(function_id) REFERENCES functions (id) ON DELETE CASCADE );
CREATE TABLE events ( id {id} NOT NULL, request_id {name} NOT NULL, function {name} NOT NULL, qualifier {name} NOT
  NULL, lane {name} NOT NULL, state {name} NOT NULL, size INTEGER NOT NULL, due_at BIGINT NOT NULL, attempt INTEGER
  NOT NULL, tries INTEGER NOT NULL, backoffs INTEGER NOT NULL, crashes INTEGER NOT NULL, trace_id TEXT NOT NULL,
  origin {name} NOT NULL, parent {name} NOT NULL, mode {name} NOT NULL, message {name} NOT NULL, fed_at BIGINT NOT
  NULL, ended_at BIGINT NOT NULL, condition {name} NOT NULL, error_type {name} NOT NULL, error_message TEXT NOT NULL,
  PRIMARY KEY (id) );
CREATE INDEX events_ended_badly ON events (state, id) WHERE state IN ('failed', 'cancelled');
CREATE INDEX events_error ON events (error_type, id) WHERE error_type <> '';
CREATE INDEX events_fed ON events (id) WHERE state = 'fed';
CREATE INDEX events_function ON events (function, id);
CREATE INDEX events_origin ON events (origin, id) WHERE origin <> '';
CREATE INDEX events_queued ON events (function, lane, due_at, id) WHERE state = 'queued';
CREATE UNIQUE INDEX events_request_id ON events (request_id);
CREATE TABLE payloads ( event_id {id} NOT NULL, payload {blob} NOT NULL, PRIMARY KEY (event_id) );
CREATE TABLE attempts ( event_id {id} NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, started_at BIGINT NOT
  NULL, ended_at BIGINT NOT NULL, worker TEXT NOT NULL, environment TEXT NOT NULL, version TEXT NOT NULL, error_type
  TEXT NOT NULL, error_message TEXT NOT NULL, log_tail {blob} NOT NULL, result {blob} NOT NULL, result_size INTEGER
  NOT NULL, PRIMARY KEY (event_id, number) );
CREATE TABLE deliveries ( id {id} NOT NULL, event_id {id} NOT NULL, kind TEXT NOT NULL, target {name} NOT NULL, body
  {blob} NOT NULL, attributes TEXT NOT NULL, state {name} NOT NULL, tries INTEGER NOT NULL, due_at BIGINT NOT NULL,
  ended_at BIGINT NOT NULL, error TEXT NOT NULL, PRIMARY KEY (id) );
CREATE INDEX deliveries_event ON deliveries (event_id);
CREATE INDEX deliveries_queued ON deliveries (target, due_at) WHERE state = 'queued';
"""


def _add_ledger(connection: Connection) -> None:
    for statement in _LEDGER.format_map(_TYPES[connection.dialect.name]).split(";\n")[:-1]:
        connection.execute(text(statement))


#: Step ``n`` (counted from 0) turns version n + 1 into version n + 2. A step never uses ``tables``, which may be newer.
STEPS: Final[tuple[Callable[[Connection], None], ...]] = (_add_ledger,)
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
