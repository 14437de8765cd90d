"""Errors as AWS's callers see them: name, HTTP status, body and headers.

Status and member names of an error come from its shape in botocore's Lambda model; the few errors that every AWS
service can answer stand in :data:`COMMON`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from dispatcher.wire.model import ErrorShape, error_shapes

#: Errors outside the Lambda model and their HTTP status.
COMMON: Final[Mapping[str, int]] = MappingProxyType(
    {
        "ValidationException": 400,
        "SerializationException": 400,
        "IncompleteSignatureException": 400,
        "AccessDeniedException": 403,
        "InvalidSignatureException": 403,
        "MissingAuthenticationTokenException": 403,
        "UnrecognizedClientException": 403,
        "UnknownOperationException": 404,
        "RequestEntityTooLargeException": 413,
        "NotImplemented": 501,
        "ServiceUnavailableException": 503,
    }
)


class AwsError(Exception):
    """An answer other than success, by AWS's name for it; raise it anywhere below an operation.

    ``status`` overrides the model's HTTP status (``ServiceException`` is 500, or 503 when Redis is gone).
    ``members`` are further members of the error's shape, such as ``Reason`` or ``retryAfterSeconds``; for errors
    outside the model they are put into the body as they are.
    """

    def __init__(self, code: str, message: str, *, status: int | None = None, **members: str | int) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status if status is not None else _status(code)
        self.members = members


def _status(code: str) -> int:
    shape = error_shapes().get(code)
    if shape is not None:
        return shape.status
    return COMMON.get(code, 400)


def body_of(error: AwsError) -> dict[str, str | int]:
    """The JSON body: ``Type`` and the message under the name that the model gives it, then the other members."""
    shape = error_shapes().get(error.code)
    if shape is None:
        return {"message": error.message, **error.members}
    body: dict[str, str | int] = {name: value for name, value in error.members.items() if name not in shape.headers}
    body.setdefault("Type", "User" if error.status < 500 else "Service")
    body[shape.message_member] = error.message
    return body


def headers_of(error: AwsError) -> list[tuple[bytes, bytes]]:
    """``x-amzn-errortype``, and the members that travel as headers (``Retry-After``)."""
    headers = [(b"x-amzn-errortype", error.code.encode("ascii", "replace"))]
    shape = error_shapes().get(error.code)
    if shape is not None:
        headers += _member_headers(error, shape)
    return headers


def _member_headers(error: AwsError, shape: ErrorShape) -> list[tuple[bytes, bytes]]:
    return [
        (header.encode(), str(error.members[member]).encode("latin-1", "replace"))
        for member, header in shape.headers.items()
        if member in error.members
    ]


def encode_error(error: AwsError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers (without the common ones) and body of an error."""
    return error.status, headers_of(error), msgspec.json.encode(body_of(error))
