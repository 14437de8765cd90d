"""Pages of a list: ``Marker`` is where the page before ended, so rows that come and go never shift a page."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Select

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
    after: Callable[[list[Any]], ColumnElement[bool]],
    marker: str | None,
    limit: int | None,
    *,
    read: Callable[[Row[Any]], T],
    position: Callable[[T], list[str | int]],
    kinds: tuple[type, ...],
) -> Page[T]:
    """The items of an ordered query after ``marker``.

    ``position`` is what identifies an item in that order, and ``kinds`` its types: markers come from outside.
    """
    size = min(limit or MAX_PAGE, MAX_PAGE)
    if marker:
        query = query.where(after(_decode(marker, kinds)))
    rows = connection.execute(query.limit(size + 1)).all()
    items = [read(row) for row in rows[:size]]
    return Page(items, _encode(position(items[-1])) if len(rows) > size else None)


def _decode(marker: str, kinds: tuple[type, ...]) -> list[Any]:
    try:
        start = msgspec.json.decode(base64.urlsafe_b64decode(marker), type=list[str | int])
    except (msgspec.DecodeError, binascii.Error, ValueError):
        start = []
    if [type(part) for part in start] != list(kinds) or not all(map(_fits, start)):
        raise AwsError("InvalidParameterValueException", "Invalid Marker")
    return start


def _fits(part: str | int) -> bool:
    """Whether both databases can compare it."""
    return "\0" not in part if isinstance(part, str) else 0 <= part < 2**31


def _encode(position: list[str | int]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode()
