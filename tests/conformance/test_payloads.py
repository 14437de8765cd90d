"""Events and results of every size, up to AWS's limits and past them."""

import hashlib
import http.client
import json

import pytest

from tests.services.functions import Family, Functions

LIMIT = 6_291_556


@pytest.mark.parametrize("family", ["python", "node"])
def test_six_megabytes_both_ways(functions: Functions, family: Family) -> None:
    name = functions.sample("echo", family, MemorySize=512)
    for _ in range(2):
        payload = json.dumps("x" * (LIMIT - 2)).encode()
        assert len(payload) == LIMIT
        answer = functions.invoke(name, Payload=payload)
        assert answer.error is None
        assert hashlib.sha256(answer.body).digest() == hashlib.sha256(payload).digest()


def test_a_megabyte_through_a_shell(functions: Functions) -> None:
    name = functions.sample("echo", "provided")
    payload = json.dumps("y" * 1_500_000).encode()
    assert functions.invoke(name, Payload=payload).body == payload


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 1_048_577])
def test_sizes_around_the_inline_limit(functions: Functions, size: int) -> None:
    payload = b'"' + b"z" * (size - 2) + b'"' if size > 1 else b"1"
    name = functions.sample("echo")
    assert functions.invoke(name, Payload=payload).body == payload


def test_a_response_that_is_too_large(functions: Functions) -> None:
    name = functions.sample("big_response", MemorySize=512)
    assert len(functions.invoke(name, {"bytes": LIMIT}).body) == LIMIT
    for size in (LIMIT + 1, 20_000_000):
        answer = functions.invoke(name, {"bytes": size})
        assert (answer.status, answer.error) == (200, "Unhandled")
        assert answer.body.decode() == (
            '{"errorType":"Function.ResponseSizeTooLarge","errorMessage":'
            '"Response payload size exceeded maximum allowed payload size (6291556 bytes)."}'
        )
    assert functions.invoke(name, {"bytes": 10}).body == b'"xxxxxxxx"'


def test_a_request_that_is_too_large(functions: Functions) -> None:
    name = functions.sample("echo")
    code, status, answer = functions.refused(name, Payload=b'"' + b"x" * (LIMIT - 1) + b'"')
    assert (code, status) == ("RequestTooLargeException", 413)
    assert answer["Error"]["Message"] == "Request must be smaller than 6291556 bytes for the InvokeFunction operation"
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-errortype"] == "RequestTooLargeException"
    assert functions.invoke(name, 1).body == b"1"


@pytest.mark.parametrize("payload", [b"{", b"not json", b"{'a': 1}", b"\xff\xfe", b"[1,]", b'{"a":1} x', b"NaN"])
def test_a_request_that_is_no_json(functions: Functions, payload: bytes) -> None:
    name = functions.sample("echo")
    code, status, answer = functions.refused(name, Payload=payload)
    assert (code, status) == ("InvalidRequestContentException", 400)
    assert answer["Error"]["Message"].startswith("Could not parse request body into json: ")
    assert "Traceback" not in str(answer)
    assert functions.environments(name) == []


def test_an_empty_request_is_an_empty_object(functions: Functions) -> None:
    name = functions.sample("echo")
    assert functions.invoke(name).body == b"{}"
    assert functions.invoke(name, Payload=b"").body == b"{}"


@pytest.mark.parametrize(
    "payload", [b"null", b'""', b" 1 ", b"-0", b"1e5", b'"\\ud83d\\ude00"', '"😀"'.encode(), b"[]"]
)
def test_any_json_is_an_event(functions: Functions, payload: bytes) -> None:
    name = functions.sample("echo", "provided")
    assert functions.invoke(name, Payload=payload).body == payload


def test_deep_json_is_an_event_or_refused(functions: Functions) -> None:
    name = functions.sample("echo", "provided")
    payload = b"[" * 900 + b"]" * 900
    assert functions.invoke(name, Payload=payload).body == payload
    code, status, _ = functions.refused(name, Payload=b"[" * 1_000_000)
    assert (code, status) == ("InvalidRequestContentException", 400)


def test_a_body_shorter_than_it_says(functions: Functions) -> None:
    """The server waits for no more than its time, and serves others meanwhile."""
    name = functions.sample("echo")
    connection = http.client.HTTPConnection("127.0.0.1", functions.stack.port, timeout=10)
    try:
        connection.putrequest("POST", f"/2015-03-31/functions/{name}/invocations")
        connection.putheader("Content-Length", "1000")
        connection.endheaders()
        connection.send(b'{"a":')
        assert functions.invoke(name, 1).body == b"1"
    finally:
        connection.close()
    assert functions.invoke(name, 2).body == b"2"
