"""Pages of a list: ``Marker`` is where the page before ended, so rows that come and go never shift a page."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Row, Select, and_, or_

from dispatcher.wire.errors import AwsError

T = TypeVar("T")

#: AWS answers at most 50 items a page, whatever ``MaxItems`` asks for.
MAX_PAGE: Final = 50


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items, and the marker of the next page when there is one."""

    items: list[T]
    next_marker: str | None


def page_of(
    connection: Connection,
    query: Select[Any],
    order: Sequence[Column[Any]],
    marker: str | None,
    limit: int | None,
    read: Callable[[Row[Any]], T],
) -> Page[T]:
    """The items of a query after ``marker``, ordered by the columns ``order``, which identify an item.

    ``read`` makes a row into an item. Raises ``InvalidParameterValueException`` for a marker that no page had, because
    markers come from outside.
    """
    size = min(limit or MAX_PAGE, MAX_PAGE)
    if marker:
        query = query.where(_is_after(order, _decode(marker, [column.type.python_type for column in order])))
    rows = connection.execute(query.order_by(*order).limit(size + 1)).all()
    next_marker = _encode([rows[size - 1]._mapping[column] for column in order]) if len(rows) > size else None
    return Page([read(row) for row in rows[:size]], next_marker)


def _is_after(order: Sequence[Column[Any]], position: list[Any]) -> ColumnElement[bool]:
    """Whether a row is behind ``position``: by the first column, or where that is equal by the next, and so on."""
    column, value = order[0], position[0]
    behind: ColumnElement[bool] = column > value
    return behind if len(order) == 1 else or_(behind, and_(column == value, _is_after(order[1:], position[1:])))


def _decode(marker: str, kinds: list[type]) -> list[Any]:
    try:
        start = msgspec.json.decode(base64.urlsafe_b64decode(marker), type=list[str | int])
    except (msgspec.DecodeError, binascii.Error, ValueError):
        start = []
    if [type(part) for part in start] != kinds or not all(map(_fits, start)):
        raise AwsError("InvalidParameterValueException", "Invalid Marker")
    return start


def _fits(part: str | int) -> bool:
    """Whether both databases can compare a column with ``part``."""
    return "\0" not in part if isinstance(part, str) else 0 <= part < 2**31


def _encode(position: list[str | int]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode()
