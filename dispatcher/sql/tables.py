"""The tables of the catalog and of the ledger, written once for SQLite and PostgreSQL."""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata: Final = MetaData()

#: Text that is compared byte by byte, so that paging orders names alike on every server.
_NAME: Final = String().with_variant(String(collation="C"), "postgresql")


def _where(condition: str) -> dict[str, Any]:
    """An index over the rows that meet a condition: small, and no work for the others."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


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

#: FunctionEventInvokeConfig: how asynchronous invocations of one qualifier (``$LATEST``, a version, an alias) go on.
event_invoke_configs: Final = Table(
    "event_invoke_configs",
    metadata,
    _function_id(),
    Column("qualifier", _NAME, primary_key=True),
    Column("maximum_age_s", Integer),
    Column("maximum_retries", Integer),
    Column("on_success", Text, nullable=False),
    Column("on_failure", Text, nullable=False),
    Column("last_modified", BigInteger, nullable=False),
)

#: SQLite's own row number has this type and no other, and is the cheapest key there is.
_ID: Final = BigInteger().with_variant(Integer, "sqlite")
#: Milliseconds since 1970.
_TIME: Final = BigInteger

#: The ledger: every event that was answered 202. ``id`` has the time of its acceptance (:mod:`dispatcher.ledger.ids`),
#: so it orders events and stands for ``--since`` and ``--until``. What is large stands in tables of its own, because SQLite
#: writes a changed row anew as a whole.
events: Final = Table(
    "events",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=False),
    Column("request_id", _NAME, nullable=False),
    Column("function", _NAME, nullable=False),  # account:region:name
    Column("qualifier", _NAME, nullable=False),  # empty: none was given
    Column("lane", _NAME, nullable=False),
    Column("state", _NAME, nullable=False),  # queued | fed | succeeded | failed | cancelled
    Column("size", Integer, nullable=False),  # bytes of the payload
    Column("due_at", _TIME, nullable=False),
    Column("attempt", Integer, nullable=False),  # number of the newest: the fence; 0 before the first
    Column("tries", Integer, nullable=False),  # attempts that the function itself ended
    Column("backoffs", Integer, nullable=False),  # throttles and system errors since the last try
    Column("crashes", Integer, nullable=False),  # attempts whose worker died while they ran
    Column("trace_id", Text, nullable=False),
    Column("origin", _NAME, nullable=False),  # empty: a caller of the API; else what put it here, such as replay:<id>
    Column("parent", _NAME, nullable=False),  # request id of the event that this one repeats or follows
    Column("mode", _NAME, nullable=False),  # of the newest attempt, as the next two
    Column("message", _NAME, nullable=False),
    Column("fed_at", _TIME, nullable=False),
    Column("ended_at", _TIME, nullable=False),  # 0: not yet
    Column("condition", _NAME, nullable=False),  # Success | RetriesExhausted | EventAgeExceeded | …
    Column("error_type", _NAME, nullable=False),
    Column("error_message", Text, nullable=False),
    Index("events_request_id", "request_id", unique=True),
    Index("events_queued", "function", "lane", "due_at", "id", **_where("state = 'queued'")),
    Index("events_fed", "id", **_where("state = 'fed'")),
    Index("events_ended_badly", "state", "id", **_where("state IN ('failed', 'cancelled')")),
    Index("events_function", "function", "id"),
    Index("events_error", "error_type", "id", **_where("error_type <> ''")),
    Index("events_origin", "origin", "id", **_where("origin <> ''")),
)

payloads: Final = Table(
    "payloads",
    metadata,
    Column("event_id", _ID, primary_key=True, autoincrement=False),
    Column("payload", LargeBinary, nullable=False),
)

#: One row for each attempt that ended.
attempts: Final = Table(
    "attempts",
    metadata,
    Column("event_id", _ID, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),  # success | function_error | system_error | throttled | interrupted | died
    Column("started_at", _TIME, nullable=False),
    Column("ended_at", _TIME, nullable=False),
    Column("worker", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("error_type", Text, nullable=False),
    Column("error_message", Text, nullable=False),
    Column("log_tail", LargeBinary, nullable=False),
    Column("result", LargeBinary, nullable=False),
    Column("result_size", Integer, nullable=False),  # bytes before it was capped
)

#: A delivery is what has to reach a destination or a dead-letter queue once its event has ended.
deliveries: Final = Table(
    "deliveries",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=False),
    Column("event_id", _ID, nullable=False),
    Column("kind", Text, nullable=False),  # destination | dead-letter
    Column("target", _NAME, nullable=False),  # ARN
    Column("body", LargeBinary, nullable=False),
    Column("attributes", Text, nullable=False),  # JSON object of what goes beside the body
    Column("state", _NAME, nullable=False),  # queued | delivered | failed
    Column("tries", Integer, nullable=False),
    Column("due_at", _TIME, nullable=False),
    Column("ended_at", _TIME, nullable=False),
    Column("error", Text, nullable=False),
    Index("deliveries_queued", "target", "due_at", **_where("state = 'queued'")),
    Index("deliveries_event", "event_id"),
)
