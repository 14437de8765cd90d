"""What destinations and dead letters get, to the byte."""

import json
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest

from dispatcher.ledger import records
from dispatcher.ledger.records import Condition, EndedEvent, Response

OK = Response(b'"ok"')
ID = "00000000-0000-4000-8000-000000000001"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:f"
AT = datetime(2019, 11, 14, 18, 16, 5, 568_999, tzinfo=UTC)
HEAD = b'{"version":"1.0","timestamp":"2019-11-14T18:16:05.568Z","requestContext":{"requestId":"' + ID.encode()


def ending(
    condition: Condition = "Success",
    count: int = 1,
    request: bytes = b'{"a":1}',
    response: Response | None = OK,
    arn: str = ARN,
    at: datetime = AT,
) -> EndedEvent:
    return EndedEvent(ID, arn, condition, count, request, response, at)


def test_a_success_becomes_awss_record() -> None:
    assert records.destination_record(ending()) == (
        HEAD + b'","functionArn":"arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST","condition":"Success",'
        b'"approximateInvokeCount":1},"requestPayload":{"a":1},'
        b'"responseContext":{"statusCode":200,"executedVersion":"$LATEST"},"responsePayload":"ok"}'
    )


def test_exhausted_retries_become_awss_record() -> None:
    failed = Response(b'{"errorMessage": "no"}', "7", "Unhandled")
    assert records.destination_record(ending("RetriesExhausted", 3, response=failed, arn=f"{ARN}:live")) == (
        HEAD
        + b'","functionArn":"arn:aws:lambda:us-east-1:000000000000:function:f:live","condition":"RetriesExhausted",'
        b'"approximateInvokeCount":3},"requestPayload":{"a":1},'
        b'"responseContext":{"statusCode":200,"executedVersion":"7","functionError":"Unhandled"},'
        b'"responsePayload":{"errorMessage": "no"}}'
    )


def test_too_old_after_an_attempt_has_its_response() -> None:
    failed = Response(b"null", error="Unhandled")
    assert records.destination_record(ending("EventAgeExceeded", 2, response=failed)) == (
        HEAD
        + b'","functionArn":"arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST","condition":"EventAgeExceeded",'
        b'"approximateInvokeCount":2},"requestPayload":{"a":1},'
        b'"responseContext":{"statusCode":200,"executedVersion":"$LATEST","functionError":"Unhandled"},"responsePayload":null}'
    )


@pytest.mark.parametrize(
    ("condition", "response"),
    [("EventAgeExceeded", None), ("ZeroReservedConcurrency", None), ("ZeroReservedConcurrency", Response(b"1"))],
)
def test_without_a_response_both_members_are_absent(condition: Condition, response: Response | None) -> None:
    assert records.destination_record(ending(condition, 0, response=response)) == (
        HEAD + b'","functionArn":"arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST","condition":"'
        + condition.encode() + b'","approximateInvokeCount":0},"requestPayload":{"a":1}}'
    )  # fmt: skip


@pytest.mark.parametrize(
    "payload",
    [
        b'{ "a" :\n1.0, "a": 2 }',
        b"1e999",
        b"123456789012345678901234567890",
        '"\u20ac \\u20ac \\ud800"'.encode(),
        b" [] ",
    ],
)
def test_payloads_are_embedded_byte_for_byte(payload: bytes) -> None:
    record = records.destination_record(ending(request=payload, response=Response(payload)))
    assert b'"requestPayload":' + payload + b',"responseContext"' in record
    assert record.endswith(b'"responsePayload":' + payload + b"}")


def test_an_empty_request_is_an_empty_object() -> None:
    assert b'"requestPayload":{},' in records.destination_record(ending(request=b""))


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", ""),
        (b"plain \x1b[1m", "plain \x1b[1m"),
        (b'{"a": NaN}', '{"a": NaN}'),
        (b'"\xff"', '"\ufffd"'),
        (b'{"a":1},"injected":{', '{"a":1},"injected":{'),
        (b"[" * 100_000, "[" * 100_000),
        (b"[" * 100_000 + b"]" * 100_000, "[" * 100_000 + "]" * 100_000),
    ],
    ids=["empty", "text", "nan", "encoding", "more", "torn", "deep"],
)
def test_a_response_that_is_not_json_is_a_string(payload: bytes, text: str) -> None:
    found = json.loads(records.destination_record(ending(response=Response(payload))))
    assert found["responsePayload"] == text
    assert "injected" not in found


def test_timestamps_of_records_are_utc() -> None:
    local = AT.replace(microsecond=0).astimezone(timezone(timedelta(hours=-9)))
    assert b'"timestamp":"2019-11-14T18:16:05.000Z"' in records.destination_record(ending(at=local))


def test_sns_gets_payloads_up_to_256_kb() -> None:
    room = records.SNS_BYTES - len(records.destination_record(ending(request=b'""')))
    fits = records.destination_record(ending(request=b'"%s"' % (b"x" * room)))
    assert len(fits) == 262_144
    assert records.record_for_sns(fits) == fits
    larger = records.destination_record(ending(request=b'"%s"' % (b"x" * (room + 1))))
    assert records.record_for_sns(larger) == (
        HEAD + b'","functionArn":"arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST","condition":"Success",'
        b'"approximateInvokeCount":1},"responseContext":{"statusCode":200,"executedVersion":"$LATEST"}}'
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"\n [%s] ",
        b'{"a":"%s\\ud800","responsePayload":1,"responseContext":{},"requestPayload":2}',
        b'",\\"responsePayload\\":%s"',
    ],
    ids=["space", "members", "text"],
)
@pytest.mark.parametrize("response", [None, Response(b'[{"a":1,"responseContext":{},"responsePayload":1}]')])
def test_payloads_are_found_whatever_is_in_them(payload: bytes, response: Response | None) -> None:
    record = records.destination_record(ending(request=payload % (b"1" * 300_000), response=response))
    small = json.loads(records.record_for_sns(record))
    whole = json.loads(records.destination_record(ending(request=b"1", response=response)))
    assert small == {name: value for name, value in whole.items() if not name.endswith("Payload")}


def test_a_dead_letter_is_the_event_with_three_attributes() -> None:
    body, attributes = records.dead_letter(b'{"a" : 1}', ID, "division by zero")
    assert body == b'{"a" : 1}'
    assert records.message_attributes(attributes) == {
        "RequestID": {"DataType": "String", "StringValue": ID},
        "ErrorCode": {"DataType": "Number", "StringValue": "200"},
        "ErrorMessage": {"DataType": "String", "StringValue": "division by zero"},
    }


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ("x" * 1025, "x" * 1024),
        ("\u20ac" * 400, "\u20ac" * 341),
        ("\x1b[31mred\x00\ud800\uffff\n", "\ufffd[31mred\ufffd\ufffd\ufffd\n"),
    ],
    ids=["long", "torn", "refused"],
)
def test_error_messages_that_queues_would_refuse(message: str, sent: str) -> None:
    assert records.dead_letter(b"1", ID, message)[1]["ErrorMessage"] == sent


def test_dead_letter_of_nothing() -> None:
    assert records.dead_letter(b"", ID, "") == (b"{}", {"RequestID": ID, "ErrorCode": "200"})


@pytest.mark.parametrize(("success", "word"), [(True, "Success"), (False, "Failure")])
def test_an_eventbridge_entry_has_awss_members(success: bool, word: str) -> None:
    bus = "arn:aws:events:us-east-1:000000000000:event-bus/default"
    assert records.eventbridge_entry(bus, ARN, success=success, record=b'{"a":1}') == {
        "Source": "lambda",
        "DetailType": f"Lambda Function Invocation Result - {word}",
        "Resources": [bus, f"{ARN}:$LATEST"],
        "Detail": '{"a":1}',
        "EventBusName": bus,
    }


def test_an_s3_key_is_named_as_aws_names_it() -> None:
    record = records.destination_record(ending("RetriesExhausted"))
    key = records.s3_key(f"{ARN}:live", record)
    folder, _, unique = key.partition("2019-11-14T18.16.05-")
    assert folder == "aws/lambda/async/f/2019/11/14/"
    assert str(uuid.UUID(unique)) == unique
    assert records.s3_key(ARN, record) == key
    assert records.s3_key(ARN, records.destination_record(ending(request=b'"\\ud800"'))).startswith(folder)
    assert records.s3_key(ARN, records.destination_record(ending())) != key


def test_fifo_parameters_tell_invocations_apart() -> None:
    one = records.fifo_parameters(ID, b"1")
    assert one == records.fifo_parameters(ID, b"1")
    assert one["MessageGroupId"] == ID
    others = [records.fifo_parameters(ID, b"2"), records.fifo_parameters("other", b"1")]
    assert one["MessageDeduplicationId"] not in [other["MessageDeduplicationId"] for other in others]


@pytest.mark.parametrize(
    ("trace", "sent"),
    [
        ("Root=1-5759e988-bd862e3fe1be46a994272793", True),
        ("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1;Lineage=1:fc3b4ff1:0", True),
        ("", False),
        ("mine", False),
        ("Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1\n", False),
        ("Root=1-5759e988-bd862e3fe1be46a994272793;Self=\u20ac", False),
    ],
)
def test_trace_headers_that_are_none_are_left_out(trace: str, sent: bool) -> None:
    assert records.trace_header(trace) == (trace if sent else "")
