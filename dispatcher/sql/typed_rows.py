"""Rows as values: every query has a Struct, whose fields are named like the columns and stand in their order.

A Struct says what a query answers where a row of SQLAlchemy says ``Any``, and its fields are read in half the time.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Column, Connection, Executable, Table

T = TypeVar("T")


def columns_of(row: type[msgspec.Struct], table: Table) -> tuple[Column[Any], ...]:
    """The columns of ``table`` that the fields of ``row`` name. Raises ``KeyError`` when the table lacks one."""
    return tuple(table.c[name] for name in row.__struct_fields__)


def fetch(
    connection: Connection, query: Executable, row: Callable[..., T], values: Mapping[str, Any] | None = None
) -> list[T]:
    """Every row of the answer, made into a ``row``; ``values`` are the query's parameters."""
    return [row(*found) for found in connection.execute(query, values)]


def fetch_one(connection: Connection, query: Executable, row: Callable[..., T]) -> T | None:
    """The one row of the answer, or None when there is none. Raises ``MultipleResultsFound`` when there are several."""
    found = connection.execute(query).one_or_none()
    return None if found is None else row(*found)
