"""The tables, written once for SQLite and PostgreSQL."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata: Final = MetaData()

#: Text that is compared byte by byte, so that paging orders names alike on every server.
_NAME: Final = String().with_variant(String(collation="C"), "postgresql")


def _function_id() -> Column[int]:
    return Column("function_id", Integer, ForeignKey("functions.id", ondelete="CASCADE"), primary_key=True)


schema_version: Final = Table("schema_version", metadata, Column("version", Integer, nullable=False))

settings: Final = Table(
    "settings",
    metadata,
    Column("key", _NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

functions: Final = Table(
    "functions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account", _NAME, nullable=False),
    Column("region", _NAME, nullable=False),
    Column("name", _NAME, nullable=False),
    Column("next_version", Integer, nullable=False),
    Column("reserved_concurrency", Integer),
    UniqueConstraint("account", "region", "name", name="functions_key"),
)

#: ``$LATEST`` (number 0) and the published versions. A published row's ``config`` and code never change.
versions: Final = Table(
    "versions",
    metadata,
    _function_id(),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("config", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("code_sha256", Text, nullable=False),
    Column("code_size", BigInteger, nullable=False),
    Column("hot_reload_path", Text, nullable=False),
    Column("image_uri", Text, nullable=False),
    Column("revision_id", Text, nullable=False),
    Column("last_modified", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_reason_code", Text),
    Column("state_reason", Text),
    Column("update_status", Text),
    Column("update_reason_code", Text),
    Column("update_reason", Text),
    Index("versions_code", "code_sha256"),
    Index("versions_state", "state"),
    Index("versions_update_status", "update_status"),
)

aliases: Final = Table(
    "aliases",
    metadata,
    _function_id(),
    Column("name", _NAME, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("additional_version", Integer),
    Column("additional_weight", Float),
    Column("description", Text, nullable=False),
    Column("revision_id", Text, nullable=False),
)

#: One row per statement; ``qualifier`` is empty for the function itself.
statements: Final = Table(
    "statements",
    metadata,
    _function_id(),
    Column("qualifier", _NAME, primary_key=True),
    Column("sid", _NAME, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("statement", Text, nullable=False),
)

tags: Final = Table(
    "tags",
    metadata,
    _function_id(),
    Column("key", _NAME, primary_key=True),
    Column("value", Text, nullable=False),
)
