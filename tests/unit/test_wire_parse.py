"""Requests into input dicts."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.wire.errors import AwsError
from dispatcher.wire.parse import check_json, parser_of
from dispatcher.wire.routes import api_routes


def parse(
    method: str, path: str, query: str = "", headers: dict[bytes, bytes] | None = None, body: bytes = b""
) -> dict[str, Any]:
    operation, segments = api_routes().match(method, path, query)
    return parser_of(operation)(segments, query, headers or {}, body)


FUNCTION = "/2015-03-31/functions/f"


def test_labels_are_decoded_after_the_path_is_split() -> None:
    request = parse("GET", "/2017-03-31/tags/arn%3Aaws%3Alambda%3Aeu-west-1%3A123456789012%3Afunction%3Af%2Fg")
    assert request == {"Resource": "arn:aws:lambda:eu-west-1:123456789012:function:f/g"}


def test_query_converts_types_and_collects_lists() -> None:
    assert parse("GET", "/2015-03-31/functions", "MaxItems=7&Marker=a%20b+c&unknown=1") == {
        "MaxItems": 7,
        "Marker": "a b c",
    }
    untag = parse("DELETE", "/2017-03-31/tags/x", "tagKeys=a&tagKeys=b%26c")
    assert untag == {"Resource": "x", "TagKeys": ["a", "b&c"]}


def test_payload_and_headers_of_invoke() -> None:
    headers = {b"x-amz-invocation-type": b"Event", b"x-amz-log-type": b"Tail", b"accept": b"*/*"}
    request = parse("POST", f"{FUNCTION}/invocations", "Qualifier=%24LATEST", headers, b"\x00raw")
    assert request == {
        "FunctionName": "f",
        "InvocationType": "Event",
        "LogType": "Tail",
        "Qualifier": "$LATEST",
        "Payload": b"\x00raw",
    }


def test_document_drops_nulls_and_unknown_members_and_decodes_blobs() -> None:
    body = {
        "FunctionName": "f",
        "Code": {"ZipFile": "AAEC", "S3Key": None, "Nonsense": 1},
        "Timeout": 3.0,
        "Publish": True,
        "Environment": {"Variables": {"A": "b"}},
        "Whatever": {},
    }
    assert parse("POST", "/2015-03-31/functions", body=json.dumps(body).encode()) == {
        "FunctionName": "f",
        "Code": {"ZipFile": b"\x00\x01\x02"},
        "Timeout": 3,
        "Publish": True,
        "Environment": {"Variables": {"A": "b"}},
    }


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"FunctionName": 1}, "NUMBER_VALUE cannot be converted to String"),
        ({"FunctionName": 1.5}, "DECIMAL_VALUE cannot be converted to String"),
        ({"FunctionName": True}, "TRUE_VALUE cannot be converted to String"),
        ({"FunctionName": {}}, "Start of structure or map found where not expected."),
        ({"FunctionName": []}, "Start of list found where not expected."),
        ({"Timeout": "3"}, "STRING_VALUE cannot be converted to Integer"),
        ({"Timeout": 3.5}, "DECIMAL_VALUE cannot be converted to Integer"),
        ({"Timeout": 1 << 31}, "NUMBER_VALUE is out of the range of Integer"),
        ({"Publish": 0}, "NUMBER_VALUE cannot be converted to Boolean"),
        ({"Layers": "x"}, "Expected list or null"),
        ({"Tags": []}, "Expected map or null"),
        ({"Code": "x"}, "Unexpected value type in payload"),
        ({"Code": {"ZipFile": "AAE"}}, "Base64 encoded length is expected a multiple of 4 bytes but found: 3"),
        ({"Code": {"ZipFile": "AA!="}}, "Invalid Base64 character"),
    ],
)
def test_members_of_wrong_types_are_refused_in_awss_words(document: object, message: str) -> None:
    with pytest.raises(AwsError) as error:
        parse("POST", "/2015-03-31/functions", body=json.dumps(document).encode())
    assert (error.value.code, error.value.status, error.value.message) == ("SerializationException", 400, message)


def test_large_blobs_are_decoded_in_slices() -> None:
    def code(text: str) -> bytes:
        found = parse("POST", "/2015-03-31/functions", body=json.dumps({"Code": {"ZipFile": text}}).encode())
        return bytes(found["Code"]["ZipFile"])

    data = bytes(range(256)) * 10_000 + b"end"
    assert code(base64.b64encode(data).decode()) == data
    assert code("") == b""
    # Padding is valid in the last slice only.
    slice_of_padding = "A" * ((1 << 20) - 4) + "AA=="
    assert len(code(slice_of_padding)) == (1 << 20) // 4 * 3 - 2
    with pytest.raises(AwsError):
        code(slice_of_padding + "AAAA")


@pytest.mark.parametrize("query", ["MaxItems=x", "MaxItems=", "MaxItems=1.5", "MaxItems=99999999999999999999"])
def test_wrong_number_in_the_query(query: str) -> None:
    with pytest.raises(AwsError) as error:
        parse("GET", "/2015-03-31/functions", query)
    assert error.value.code == "SerializationException"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"notat:a", "Unrecognized token 'notat': was expecting (JSON String, Number, Array, Object or token 'null', "),
        (b'{"a":', "Unexpected end-of-input"),
        (b" ", "Unexpected end-of-input"),
        (b'{"a":}', "Unexpected character ('}' (code 125)): expected a valid value"),
        (b'{\n "a" 1}', "at [line: 2, column: 6]"),
        (b'"\xff"', "Invalid UTF-8 start byte 0xff"),
        (b"\xff", "Unexpected character"),
        (b"NaN", "Unrecognized token 'NaN'"),
        (b"[" * 100_000, "Document nesting depth exceeds the maximum allowed"),
        (b"{}\xef", "Could not parse"),
        (b"1 2", "Could not parse"),
    ],
)
def test_payload_that_is_not_json(payload: bytes, message: str) -> None:
    with pytest.raises(AwsError) as error:
        check_json(payload)
    assert error.value.code == "InvalidRequestContentException"
    start = "Could not parse request body into json: Could not parse payload into json: "
    assert error.value.message.startswith(start)
    assert message in error.value.message


@pytest.mark.parametrize("payload", [b"", b"null", b' {"a": 1e999} ', b'"\\ud83d"', b"1" * 400])
def test_payload_that_is_json(payload: bytes) -> None:
    check_json(payload)


@given(st.binary(max_size=64))
def test_json_check_agrees_with_the_standard_library(payload: bytes) -> None:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(payload.decode(), parse_constant=refuse)
    except ValueError:
        expected = not payload
    else:
        expected = True
    try:
        check_json(payload)
    except AwsError:
        assert not expected
    else:
        assert expected
