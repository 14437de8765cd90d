"""What is sent when an asynchronous invocation has ended: pure functions.

Shapes are those of AWS's guide, "Capturing records of Lambda asynchronous invocations" and "Adding a dead-letter queue".
"""

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from dispatcher.wire.arn import LATEST
from dispatcher.wire.errors import AwsError
from dispatcher.wire.parse import check_json

Condition = Literal["Success", "RetriesExhausted", "EventAgeExceeded", "ZeroReservedConcurrency"]

#: The most that SNS takes in one message; AWS leaves the payloads out of a larger record.
SNS_BYTES: Final = 256 << 10
_ERROR_MESSAGE_BYTES: Final = 1024
#: ``arn:aws:lambda:region:account:function:name`` has 7 parts, a qualifier is the 8th.
_ARN_PARTS: Final = 7
_NAME_PART: Final = 6
#: SQS and SNS refuse a message with any of these in it (SendMessage's documentation). An error message may well have
#: them: colours of a terminal, half a character.
_REFUSED: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: What SQS and EventBridge take as a trace header; the one that came with the invocation is its caller's text.
_TRACE: Final = re.compile(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}(;[A-Za-z]+=[\w:./+-]*){0,8}", re.ASCII)
#: How a record begins. Records are matched and not parsed, because parsers refuse some of what may be in a payload.
_TIMESTAMP: Final = re.compile(rb'{"version":"1\.0","timestamp":"([0-9T:.-]+Z)"')
#: Finds the end of a payload. Numbers stay text, because a large one is expensive and Python refuses the largest.
_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str)


@dataclass(frozen=True, slots=True)
class Response:
    """What the last attempt returned; ``error`` is its ``FunctionError``, or empty."""

    payload: bytes
    version: str = LATEST
    error: str = ""


@dataclass(frozen=True, slots=True)
class EndedEvent:
    """How an asynchronous invocation ended. ``response`` is None when no attempt gave one."""

    request_id: str
    function_arn: str
    condition: Condition
    invoke_count: int
    request: bytes
    response: Response | None
    at: datetime


class _RequestContext(msgspec.Struct, rename="camel"):
    request_id: str
    function_arn: str
    condition: str
    approximate_invoke_count: int


class _ResponseContext(msgspec.Struct, rename="camel", omit_defaults=True):
    status_code: int
    executed_version: str
    function_error: str = ""


class _Record(msgspec.Struct, rename="camel", omit_defaults=True):
    version: str
    timestamp: str
    request_context: msgspec.Raw
    request_payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    response_context: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    response_payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def qualified(function_arn: str) -> str:
    """The ARN with ``:$LATEST`` when it has no qualifier."""
    return function_arn if function_arn.count(":") >= _ARN_PARTS else f"{function_arn}:{LATEST}"


def destination_record(ended: EndedEvent) -> bytes:
    """The record for a destination, as JSON. The payloads are in it byte for byte."""
    record = _Record(
        version="1.0",
        timestamp=_timestamp(ended.at),
        request_context=_raw(
            _RequestContext(ended.request_id, qualified(ended.function_arn), ended.condition, ended.invoke_count)
        ),
        request_payload=msgspec.Raw(ended.request or b"{}"),
    )
    response = ended.response
    if response is not None and ended.condition != "ZeroReservedConcurrency":
        # A function's error has status 200 too, because that is what Invoke answers.
        record.response_context = _raw(_ResponseContext(200, response.version, response.error))
        record.response_payload = _embedded(response.payload)
    return msgspec.json.encode(record)


def record_for_sns(record: bytes) -> bytes:
    """The record, without its payloads when SNS would not take it."""
    if len(record) <= SNS_BYTES:
        return record
    head, _, rest = record.decode().partition(',"requestPayload":')
    rest = rest.lstrip()
    _, end = _DECODER.raw_decode(rest)
    # Quotes inside the context's strings are escaped, so this is the member and no text.
    context, payload, _ = rest[end:].lstrip().partition(',"responsePayload":')
    return f"{head}{context if payload else ''}}}".encode()


def dead_letter(event: bytes, request_id: str, error_message: str) -> tuple[bytes, dict[str, str]]:
    """Body and attributes of a dead letter. An empty event is ``{}``: SQS and SNS take no empty message."""
    attributes = {"RequestID": request_id, "ErrorCode": "200"}
    message = _REFUSED.sub("\ufffd", error_message).encode()[:_ERROR_MESSAGE_BYTES].decode(errors="ignore")
    if message:  # SQS and SNS take no empty attribute either
        attributes["ErrorMessage"] = message
    return event or b"{}", attributes


def message_attributes(attributes: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The attributes as SQS and SNS want them: ``ErrorCode`` is a Number, everything else a String."""
    return {
        name: {"DataType": "Number" if name == "ErrorCode" else "String", "StringValue": value}
        for name, value in attributes.items()
    }


def fifo_parameters(request_id: str, body: bytes) -> dict[str, str]:
    """What a message to a FIFO queue or topic needs besides; AWS's Lambda sends to none of these.

    The body alone can't tell duplicates, because invocations with the same event have the same dead letter.
    """
    digest = hashlib.sha256(request_id.encode() + b"\n" + body).hexdigest()
    return {"MessageGroupId": request_id, "MessageDeduplicationId": digest}


def eventbridge_entry(bus_arn: str, function_arn: str, *, success: bool, record: bytes) -> dict[str, Any]:
    """The entry for ``PutEvents``."""
    return {
        "Source": "lambda",
        "DetailType": f"Lambda Function Invocation Result - {'Success' if success else 'Failure'}",
        "Resources": [bus_arn, qualified(function_arn)],
        "Detail": record.decode(),
        "EventBusName": bus_arn,
    }


def s3_key(function_arn: str, record: bytes) -> str:
    """The object's key: ``aws/lambda/async/<function>/YYYY/MM/DD/YYYY-MM-DDTHH.MM.SS-<uuid>``, in UTC.

    Time and UUID come from the record, so sending the record again replaces the object. Raises ``ValueError`` when
    ``record`` is none.
    """
    found = _TIMESTAMP.match(record)
    if not found:
        raise ValueError("this is no record of an invocation")
    at = datetime.fromisoformat(found[1].decode())
    unique = uuid.UUID(bytes=hashlib.sha256(record).digest()[:16], version=4)
    name = function_arn.split(":")[_NAME_PART]
    return f"aws/lambda/async/{name}/{at:%Y/%m/%d}/{at:%Y-%m-%dT%H.%M.%S}-{unique}"


def trace_header(trace_id: str) -> str:
    """The invocation's ``X-Amzn-Trace-Id``; empty when it is no valid one, because a service would refuse the message."""
    return trace_id if _TRACE.fullmatch(trace_id) else ""


def _timestamp(at: datetime) -> str:
    return f"{at.astimezone(UTC).isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"


def _raw(part: msgspec.Struct) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(part))


def _embedded(payload: bytes) -> msgspec.Raw:
    """The payload: JSON as it is, anything else (Python's ``NaN``, nothing at all) as a string."""
    try:
        check_json(payload)
    except AwsError:
        return msgspec.Raw(msgspec.json.encode(payload.decode(errors="replace")))
    return msgspec.Raw(payload or b'""')
