"""How long the ledger keeps what has ended: by age, by number and by size; what failed goes last.

Nothing that waits, runs, or has a delivery to make is ever deleted. Rows are looked for beside the commits and deleted in
small transactions with pauses, so that accepting events does not wait. SQLite uses freed pages again, so its file stays as
large as it once was; ``VACUUM``, which would write it anew, is never run.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Table, delete, exists, func, literal_column, select, text

from dispatcher.ledger.ids import first_of
from dispatcher.ledger.ledger import Ledger
from dispatcher.settings import Retention
from dispatcher.sql.tables import attempts, deliveries, events, payloads

_TABLES: Final = (events, payloads, attempts, deliveries)
_BATCH: Final = 200
#: How many events are deleted before number and size are measured again, because counting a million takes a while.
_ROUND: Final = 2000
_SLEEP_S: Final = 30.0
#: The pause after a batch, in times of what the batch took.
_PAUSES: Final = 2.0
_SHORTEST_PAUSE_S: Final = 0.02
#: PostgreSQL's own bytes in a row, and those of an event in the indexes.
_ROW_BYTES: Final = 28
_INDEX_BYTES: Final = 400
#: How much of a large table is read to learn how much is in it.
_SAMPLE_BYTES: Final = 64 << 20

log = logging.getLogger(__name__)


class Pruner:
    """Deletes what is beyond the limits of age, number and size."""

    def __init__(self, ledger: Ledger, limits: Retention) -> None:
        self._ledger = ledger
        self._limits = limits

    async def step(self) -> None:
        """Do one round, and pause after it."""
        await asyncio.sleep(_SHORTEST_PAUSE_S if await self.delete_round() else _SLEEP_S)

    async def delete_round(self) -> int:
        """Delete what is too old, then some of what is too many; answers how many events."""
        deleted = 0
        if self._limits.age_s is not None:
            deleted = await self._delete(_too_old(self._limits.age_s, self._ledger.clock.now_ms()), None)
        left = min(await self._ledger.read(excess, self._limits), _ROUND)
        for which in _ENDED:
            gone = await self._delete(which, left)
            left -= gone
            deleted += gone
        if deleted:
            log.info("old events are deleted", extra={"events": deleted})
        return deleted

    async def _delete(self, which: Sequence[ColumnElement[bool]], most: int | None) -> int:
        deleted, after = 0, 0
        while most is None or deleted < most:
            began = time.monotonic()
            batch = _BATCH if most is None else min(_BATCH, most - deleted)
            found = await self._ledger.read(_oldest, which, after, batch)
            if not found:
                break
            after = found[-1]
            await self._ledger.write(_remove, found)
            deleted += len(found)
            await asyncio.sleep(max(_PAUSES * (time.monotonic() - began), _SHORTEST_PAUSE_S))
        return deleted


def excess(connection: Connection, limits: Retention) -> int:
    """How many events there are beyond the limits of number and size, supposing that all have the same size."""
    count = int(connection.execute(select(func.count()).select_from(events)).scalar_one())
    over = count - limits.events if limits.events is not None else 0
    if limits.bytes is not None and count:
        size = used_bytes(connection, limits.bytes)
        if size > limits.bytes:
            over = max(over, -(-(size - limits.bytes) * count // size))
    return max(over, 0)


def used_bytes(connection: Connection, enough: int = 0) -> int:
    """Bytes on disk without what is free to be used again. On PostgreSQL up to ``enough`` that is not left out."""
    if connection.dialect.name == "sqlite":
        pages, free, size = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size
    sizes = {table: _total_bytes(connection, table) for table in _TABLES}
    total = sum(sizes.values())
    # The files of PostgreSQL never become smaller, so once they are too large everything would be deleted if they counted.
    # Live rows count then, which is only worth its cost when the files are too large.
    return total if total <= enough else min(total, sum(_live_bytes(connection, *item) for item in sizes.items()))


def _total_bytes(connection: Connection, table: Table) -> int:
    query = text("SELECT pg_total_relation_size(CAST(:name AS regclass))")
    return int(connection.execute(query, {"name": table.name}).scalar_one())


def _live_bytes(connection: Connection, table: Table, total: int) -> int:
    """The bytes of the table's live rows, estimated from some pages. What a row has outside of these is counted, not read."""
    percent = min(100.0, 100.0 * _SAMPLE_BYTES / max(total, 1))
    columns = " + ".join(f"pg_column_size({column.name})" for column in table.columns)
    own = _ROW_BYTES + (_INDEX_BYTES if table is events else 0)
    query = f"SELECT coalesce(sum({columns} + {own}), 0) FROM {table.name} TABLESAMPLE SYSTEM ({percent:.6f})"  # noqa: S608
    return int(float(connection.execute(text(query)).scalar_one()) * 100.0 / percent)


def _is(*states: str) -> ColumnElement[bool]:
    # Spelt out, because an index over some of the rows is found by the words of its condition.
    words: list[ColumnElement[Any]] = [literal_column(f"'{state}'") for state in states]
    return events.c.state == words[0] if len(words) == 1 else events.c.state.in_(words)


#: Which events go first, and which next. The first condition of the last is that of the index.
_ENDED: Final = ((_is("succeeded", "cancelled"),), (_is("failed", "cancelled"), _is("failed")))


def _too_old(age_s: float, now_ms: int) -> tuple[ColumnElement[bool], ...]:
    return events.c.id < first_of(now_ms - int(age_s * 1000)), _is("succeeded", "cancelled", "failed")


def _oldest(connection: Connection, which: Sequence[ColumnElement[bool]], after: int, most: int) -> list[int]:
    undelivered = exists().where(deliveries.c.event_id == events.c.id, deliveries.c.state == "queued")
    query = select(events.c.id).where(events.c.id > after, *which, ~undelivered).order_by(events.c.id).limit(most)
    return list(connection.execute(query).scalars())


def _remove(connection: Connection, ids: Sequence[int]) -> None:
    """Delete these events. Ends are final, so what was found to have ended may be deleted later, and by two dispatchers."""
    if ids:
        for table in (deliveries, attempts, payloads):
            connection.execute(delete(table).where(table.c.event_id.in_(ids)))
        connection.execute(delete(events).where(events.c.id.in_(ids)))
