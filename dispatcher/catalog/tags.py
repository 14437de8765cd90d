"""Tags of functions."""

from collections.abc import Iterable, Mapping
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from dispatcher.catalog.lookups import get_function
from dispatcher.catalog.rows import Function, FunctionKey
from dispatcher.sql.tables import tags
from dispatcher.wire.errors import AwsError

MAX_TAGS: Final = 50


def tags_of(connection: Connection, function: Function) -> dict[str, str]:
    """The function's tags by key."""
    rows = connection.execute(
        select(tags.c.key, tags.c.value).where(tags.c.function_id == function.id).order_by(tags.c.key)
    )
    return {row.key: row.value for row in rows}


def put(connection: Connection, function: Function, changes: Mapping[str, str]) -> None:
    """Set tags; ``InvalidParameterValueException`` when the function would have more than 50."""
    if not changes:
        return
    if len({**tags_of(connection, function), **changes}) > MAX_TAGS:
        raise AwsError("InvalidParameterValueException", "Number of tags exceeds resource tag limit.")
    _remove(connection, function, changes)
    connection.execute(
        insert(tags), [{"function_id": function.id, "key": key, "value": value} for key, value in changes.items()]
    )


def _remove(connection: Connection, function: Function, keys: Iterable[str]) -> None:
    connection.execute(delete(tags).where(tags.c.function_id == function.id, tags.c.key.in_(list(keys))))


def list_tags(connection: Connection, key: FunctionKey) -> dict[str, str]:
    """The tags, or ``ResourceNotFoundException``."""
    return tags_of(connection, get_function(connection, key))


def tag(connection: Connection, key: FunctionKey, changes: Mapping[str, str]) -> None:
    """Set tags of a function that exists."""
    put(connection, get_function(connection, key, lock=True), changes)


def untag(connection: Connection, key: FunctionKey, keys: Iterable[str]) -> None:
    """Remove tags of a function that exists; tags it does not have are no error."""
    _remove(connection, get_function(connection, key, lock=True), keys)
