"""Output dicts into HTTP responses, by the locations and types of the operation's output shape.

``None`` and members that the shape does not have are left out, on every level.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

import msgspec
from botocore.model import ListShape, MapShape, Shape, StructureShape

from dispatcher.wire.model import Operation, location_of, wire_name

Writer = Callable[[Any], Any]
_encode: Final = msgspec.json.Encoder().encode
_NO_CONTENT: Final = 204


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """Status, the headers that the operation itself sets, and the body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class ResponseSerialiser:
    """Serialises the answers of one operation; compiled once from its shape."""

    def __init__(self, operation: Operation) -> None:
        shape = operation.output
        members = dict(shape.members) if shape is not None else {}
        payload = str(shape.serialization.get("payload", "")) if shape is not None else ""
        self._status = operation.status
        self._status_member = next((name for name in members if location_of(members[name]) == "statusCode"), "")
        self._headers = [
            (name, wire_name(member, name).lower().encode())
            for name, member in members.items()
            if location_of(member) == "header"
        ]
        self._payload = payload
        self._has_document = shape is not None and not payload
        self._document = _structure_writer(
            {name: member for name, member in members.items() if location_of(member) == "body"}
        )

    def __call__(self, result: Mapping[str, Any]) -> HttpResponse:
        """The response for a handler's answer."""
        status = self._status
        if self._status_member:
            status = int(result.get(self._status_member) or status)
        headers = [
            (header, str(value).encode("latin-1", "replace"))
            for member, header in self._headers
            if (value := result.get(member)) is not None
        ]
        return HttpResponse(status, headers, b"" if status == _NO_CONTENT else self._body(result))

    def _body(self, result: Mapping[str, Any]) -> bytes:
        if self._payload:
            return bytes(result.get(self._payload) or b"")
        return _encode(self._document(result)) if self._has_document else b""


@cache
def serialiser_of(operation: Operation) -> ResponseSerialiser:
    """The operation's serialiser, compiled on first use."""
    return ResponseSerialiser(operation)


def _writer(shape: Shape) -> Writer | None:
    """None when values of the shape go into JSON as they are."""
    match shape:
        case StructureShape():
            return _structure_writer(shape.members)
        case ListShape():
            return _list_writer(shape)
        case MapShape():
            return _map_writer(shape)
    return _WRITERS.get(shape.type_name)


def _timestamp(value: float | datetime) -> float:
    """Seconds since the epoch, as rest-json has it."""
    return value.timestamp() if isinstance(value, datetime) else value


def _blob(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


_WRITERS: Final[Mapping[str, Writer]] = {"timestamp": _timestamp, "blob": _blob}


def _structure_writer(members: Mapping[str, Shape]) -> Writer:
    writers = {name: (wire_name(shape, name), _writer(shape)) for name, shape in members.items()}

    def write(value: Mapping[str, Any]) -> dict[str, Any]:
        return {
            wire: item if writer is None else writer(item)
            for name, (wire, writer) in writers.items()
            if (item := value.get(name)) is not None
        }

    return write


def _list_writer(shape: ListShape) -> Writer:
    writer = _writer(shape.member)
    if writer is None:
        return list
    return lambda value: [writer(item) for item in value if item is not None]


def _map_writer(shape: MapShape) -> Writer:
    writer = _writer(shape.value)
    if writer is None:
        return lambda value: {key: item for key, item in value.items() if item is not None}
    return lambda value: {key: writer(item) for key, item in value.items() if item is not None}
