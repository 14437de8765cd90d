"""Finding functions, versions and aliases; what is missing is AWS's error."""

from typing import Final

from sqlalchemy import Connection, select

from dispatcher.catalog.rows import (
    Alias,
    Function,
    FunctionKey,
    Version,
    alias_from,
    function_from,
    is_version,
    version_from,
    version_number,
)
from dispatcher.sql.tables import aliases, functions, versions
from dispatcher.wire.errors import AwsError

#: The largest number that fits into the column; callers may ask for any row of digits.
_MAX_NUMBER: Final = 2**31 - 1


def not_found(key: FunctionKey, qualifier: str | None = None) -> AwsError:
    """AWS's error for a function or qualifier that is missing: ``Function not found: <arn>``."""
    return AwsError("ResourceNotFoundException", f"Function not found: {key.arn(qualifier)}")


def find_function(connection: Connection, key: FunctionKey, *, lock: bool = False) -> Function | None:
    """The function, or None. ``lock``: nobody else changes it before this transaction ends (SQLite has one writer)."""
    query = select(functions).where(
        functions.c.account == key.account, functions.c.region == key.region, functions.c.name == key.name
    )
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return function_from(row) if row is not None else None


def get_function(
    connection: Connection, key: FunctionKey, *, lock: bool = False, qualifier: str | None = None
) -> Function:
    """The function, or ``ResourceNotFoundException``, whose ARN shows ``qualifier``."""
    function = find_function(connection, key, lock=lock)
    if function is None:
        raise not_found(key, qualifier)
    return function


def find_version(connection: Connection, function: Function, number: int) -> Version | None:
    """A version by number (0 is ``$LATEST``), or None."""
    if number > _MAX_NUMBER:
        return None
    row = connection.execute(
        select(versions).where(versions.c.function_id == function.id, versions.c.number == number)
    ).one_or_none()
    return version_from(row, function.key) if row is not None else None


def get_version(connection: Connection, function: Function, name: str) -> Version:
    """A version by name, or ``ResourceNotFoundException``."""
    version = find_version(connection, function, version_number(name)) if is_version(name) else None
    if version is None:
        raise not_found(function.key, name)
    return version


def get_latest(connection: Connection, function: Function) -> Version:
    """``$LATEST``, which every function has."""
    return get_version(connection, function, "$LATEST")


def find_alias(connection: Connection, function: Function, name: str) -> Alias | None:
    """An alias by name, or None."""
    row = connection.execute(
        select(aliases).where(aliases.c.function_id == function.id, aliases.c.name == name)
    ).one_or_none()
    return alias_from(row, function.key) if row is not None else None


def get_alias(connection: Connection, function: Function, name: str) -> Alias:
    """An alias by name, or ``ResourceNotFoundException``."""
    alias = find_alias(connection, function, name)
    if alias is None:
        raise AwsError("ResourceNotFoundException", f"Cannot find alias arn: {function.key.arn(name)}")
    return alias


def get_qualified(connection: Connection, key: FunctionKey, qualifier: str | None) -> tuple[Function, Version]:
    """The version that a qualifier names, through an alias to its main version."""
    function = get_function(connection, key, qualifier=qualifier)
    if qualifier is None:
        return function, get_latest(connection, function)
    if is_version(qualifier):
        return function, get_version(connection, function, qualifier)
    alias = find_alias(connection, function, qualifier)
    if alias is None:
        raise not_found(key, qualifier)
    version = find_version(connection, function, alias.version)
    if version is None:
        raise not_found(key, qualifier)
    return function, version
