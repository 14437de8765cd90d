"""Statements that are run for every event: written by hand and handed to the driver, at a third of SQLAlchemy's CPU."""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

_NAMED = re.compile(r":([a-z_]+)")


class HotStatement:
    """One statement, run for many rows; names of parameters stand in it as ``:name``."""

    def __init__(self, sql: str) -> None:
        self._sql = {"sqlite": sql, "postgresql": _NAMED.sub(r"%(\1)s", sql)}

    def __call__(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Execute the statement for each of the rows, if there are any."""
        if rows:
            connection.exec_driver_sql(self._sql[connection.dialect.name], list(rows))


def insert(table: str, *columns: str) -> HotStatement:
    """An INSERT of these columns, which are the parameters' names too."""
    values = ", ".join(f":{column}" for column in columns)
    return HotStatement(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})")  # noqa: S608 - names of ours
