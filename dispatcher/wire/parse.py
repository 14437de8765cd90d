"""HTTP requests into input dicts, by the locations and types of the operation's input shape.

Types are converted and checked here, constraints in ``validate``. Unknown members and nulls are dropped, as AWS does.
Wording of the type errors: recorded from AWS's JSON services.
"""

import binascii
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import msgspec
from botocore.model import ListShape, MapShape, Shape, StructureShape

from dispatcher.wire.errors import AwsError
from dispatcher.wire.model import Operation, location_of, wire_name

# Values are JSON's; what they may be is the model's business, so they are Any by nature.
Reader = Callable[[Any], Any]
Headers = Mapping[bytes, bytes]

_decode: Final = msgspec.json.Decoder().decode
_skip: Final = msgspec.json.Decoder(msgspec.Raw).decode
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_OFFSET: Final = re.compile(r"\(byte (\d+)\)")
_WORD: Final = re.compile(rb"[A-Za-z_$][A-Za-z0-9_$]*")
_SLICE: Final = 1 << 20
_LONGEST_WORD: Final = 64
_WANTED: Final = "(JSON String, Number, Array, Object or token 'null', 'true' or 'false')"
_BITS: Final = {"integer": 31, "long": 63}


class RequestParser:
    """Builds the input dict of one operation; compiled once from its shape."""

    def __init__(self, operation: Operation) -> None:
        shape = operation.input
        members = dict(shape.members) if shape is not None else {}
        payload = str(shape.serialization.get("payload", "")) if shape is not None else ""
        self._labels = _label_plan(operation, members)
        self._queries = _text_plan(members, "querystring")
        self._headers = [(name.lower().encode(), *rest) for name, rest in _text_plan(members, "header").items()]
        self._payload = payload if payload and members[payload].type_name == "blob" else ""
        self._payload_document = payload if payload and not self._payload else ""
        self._document = _document_reader(members, payload)

    def __call__(self, segments: list[str], query: str, headers: Headers, body: bytes) -> dict[str, Any]:
        """The input dict; raises ``SerializationException`` for wrong types, ``InvalidRequestContentException`` for a body not JSON."""
        request: dict[str, Any] = {}
        for index, member, read in self._labels:
            segment = segments[index]
            request[member] = read(unquote(segment) if "%" in segment else segment)
        for name, member, read in self._headers:
            value = headers.get(name)
            if value is not None:
                request[member] = read(value.decode("latin-1"))
        if query and self._queries:
            self._read_query(query, request)
        if self._payload:
            request[self._payload] = body
        elif self._document is not None and body:
            self._read_document(body, request)
        return request

    def _read_query(self, query: str, request: dict[str, Any]) -> None:
        for name, value in parse_qsl(query, keep_blank_values=True):
            plan = self._queries.get(name)
            if plan is None:
                continue
            member, read = plan
            converted = read(value)
            if isinstance(converted, list):
                request.setdefault(member, []).extend(converted)
            else:
                request[member] = converted

    def _read_document(self, body: bytes, request: dict[str, Any]) -> None:
        assert self._document is not None
        value = self._document(decode_json(body))
        if self._payload_document:
            request[self._payload_document] = value
        else:
            request.update(value)


@cache
def parser_of(operation: Operation) -> RequestParser:
    """The operation's parser, compiled on first use."""
    return RequestParser(operation)


def decode_json(body: bytes) -> Any:
    """The document, or ``InvalidRequestContentException`` in AWS's words."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _not_json("Could not parse request body into json", body, error) from None


def check_json(payload: bytes) -> None:
    """Whether an Invoke payload is JSON, without building the document; empty counts as none.

    Raises ``InvalidRequestContentException`` in AWS's words.
    """
    if not payload:
        return
    try:
        _skip(payload)
        # Skipping does not look inside strings.
        payload.decode()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        if _is_lenient_json(payload):
            return
        start = "Could not parse request body into json: Could not parse payload into json"
        raise _not_json(start, payload, error) from None


def _is_lenient_json(payload: bytes) -> bool:
    """Whether a text is JSON after all: half a surrogate pair, written as an escape, is legal, and truncated texts have it."""
    try:
        json.loads(payload.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _not_json(start: str, body: bytes, error: Exception) -> AwsError:
    return AwsError("InvalidRequestContentException", f"{start}: {_json_problem(body, error)}")


def _json_problem(body: bytes, error: Exception) -> str:
    """What is wrong, in the words of the parser that AWS uses (Jackson) as far as the error tells."""
    if isinstance(error, RecursionError):
        return "Document nesting depth exceeds the maximum allowed"
    if isinstance(error, UnicodeDecodeError):
        return f"Invalid UTF-8 start byte 0x{body[error.start]:02x}"
    found = _OFFSET.search(str(error))
    if found is None:
        return "Unexpected end-of-input" if "truncated" in str(error) else str(error)
    offset = int(found[1])
    line = body.count(b"\n", 0, offset) + 1
    column = offset - body.rfind(b"\n", 0, offset)
    where = f"line: {line}, column: {column}"
    token = _WORD.search(body, max(0, offset - _LONGEST_WORD), offset + _LONGEST_WORD)
    while token is not None and token.end() <= offset:
        token = _WORD.search(body, token.end(), offset + _LONGEST_WORD)
    if token is not None and token.start() <= offset:
        return f"Unrecognized token '{token[0].decode()}': was expecting {_WANTED} at [{where}]"
    character = body[offset : offset + 4].decode("utf-8", "replace")[:1]
    if not character:
        return "Unexpected end-of-input"
    return (
        f"Unexpected character ('{character}' (code {ord(character)})): expected a valid value {_WANTED} at [{where}]"
    )


def _label_plan(operation: Operation, members: Mapping[str, Shape]) -> list[tuple[int, str, Reader]]:
    by_wire_name = {wire_name(shape, name): (name, shape) for name, shape in members.items()}
    plan = []
    for index, segment in enumerate(operation.path):
        if segment.startswith("{"):
            member, shape = by_wire_name[segment.strip("{}+")]
            plan.append((index, member, _text_reader(shape)))
    return plan


def _text_plan(members: Mapping[str, Shape], location: str) -> dict[str, tuple[str, Reader]]:
    return {
        wire_name(shape, name): (name, _text_reader(shape))
        for name, shape in members.items()
        if location_of(shape) == location
    }


def _document_reader(members: Mapping[str, Shape], payload: str) -> Reader | None:
    if payload:
        shape = members[payload]
        return None if shape.type_name == "blob" else _reader(shape)
    body = {name: shape for name, shape in members.items() if location_of(shape) == "body"}
    return _structure_reader(body) if body else None


# Text of labels, queries and headers.


def _text_reader(shape: Shape) -> Reader:
    if isinstance(shape, ListShape):
        read = _text_reader(shape.member)
        return lambda text: [read(text)]
    return _TEXT_READERS.get(shape.type_name, str)


def _text_integer(text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise _wrong("STRING_VALUE cannot be converted to Integer")
    return int(text)


def _text_boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise _wrong("STRING_VALUE cannot be converted to Boolean")
    return text.lower() == "true"


def _text_double(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _wrong("STRING_VALUE cannot be converted to Double") from None


def _timestamp(value: Any) -> float:
    """Seconds since the epoch, from a number or ISO 8601."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        raise _wrong(f"{_token(value)} cannot be converted to milliseconds since epoch") from None


_TEXT_READERS: Final[Mapping[str, Reader]] = {
    "integer": _text_integer,
    "long": _text_integer,
    "boolean": _text_boolean,
    "double": _text_double,
    "float": _text_double,
    "timestamp": _timestamp,
}


# Values of JSON documents.


def _wrong(message: str) -> AwsError:
    return AwsError("SerializationException", message)


def _token(value: object) -> str:
    """What AWS calls a JSON value of this type."""
    match value:
        case bool():
            return "TRUE_VALUE" if value else "FALSE_VALUE"
        case int():
            return "NUMBER_VALUE"
        case float():
            return "DECIMAL_VALUE"
        case _:
            return "STRING_VALUE"


def _mismatch(value: object, wanted: str) -> AwsError:
    if isinstance(value, dict):
        return _wrong("Start of structure or map found where not expected.")
    if isinstance(value, list):
        return _wrong("Start of list found where not expected.")
    return _wrong(f"{_token(value)} cannot be converted to {wanted}")


def _string(value: object) -> str:
    if isinstance(value, str):
        return value
    raise _mismatch(value, "String")


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _mismatch(value, "Boolean")


def _double(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise _mismatch(value, "Double")


def _integer_reader(kind: str) -> Reader:
    limit = 2 ** _BITS[kind]
    name = kind.capitalize()

    def read(value: object) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _mismatch(value, name)
        if not -limit <= value < limit:
            raise _wrong(f"NUMBER_VALUE is out of the range of {name}")
        return value

    return read


def _blob(value: object) -> bytes:
    if not isinstance(value, str):
        raise _mismatch(value, "Blob")
    if len(value) % 4:
        raise _wrong(f"Base64 encoded length is expected a multiple of 4 bytes but found: {len(value)}")
    try:
        # In slices, so that other threads get their turn while a large zip is decoded.
        parts = [_decode_slice(value, start) for start in range(0, len(value), _SLICE)]
    except (binascii.Error, ValueError):
        raise _wrong("Invalid Base64 character") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _decode_slice(value: str, start: int) -> bytes:
    part = value[start : start + _SLICE]
    if start + _SLICE < len(value) and part.endswith("="):
        raise ValueError("padding before the end")
    return binascii.a2b_base64(part, strict_mode=True)


def _reader(shape: Shape) -> Reader:
    match shape:
        case StructureShape():
            return _structure_reader(shape.members)
        case ListShape():
            return _list_reader(shape)
        case MapShape():
            return _map_reader(shape)
    if shape.type_name in _BITS:
        return _integer_reader(shape.type_name)
    return _READERS[shape.type_name]


_READERS: Final[Mapping[str, Reader]] = {
    "string": _string,
    "boolean": _boolean,
    "double": _double,
    "float": _double,
    "blob": _blob,
    "timestamp": _timestamp,
}


def _structure_reader(members: Mapping[str, Shape]) -> Reader:
    readers = {wire_name(shape, name): (name, _reader(shape)) for name, shape in members.items()}

    def read(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong("Unexpected value type in payload")
        return {
            readers[key][0]: readers[key][1](item) for key, item in value.items() if item is not None and key in readers
        }

    return read


def _list_reader(shape: ListShape) -> Reader:
    read_item = _reader(shape.member)

    def read(value: object) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong("Expected list or null")
        return [None if item is None else read_item(item) for item in value]

    return read


def _map_reader(shape: MapShape) -> Reader:
    read_item = _reader(shape.value)

    def read(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong("Expected map or null")
        return {key: None if item is None else read_item(item) for key, item in value.items()}

    return read
