"""Output dicts and errors into responses."""

import json
from datetime import UTC, datetime

from dispatcher.wire.errors import AwsError, encode_error
from dispatcher.wire.model import operations
from dispatcher.wire.serialise import serialiser_of


def test_only_members_of_the_shape_that_are_not_none() -> None:
    result = {
        "FunctionName": "f",
        "Role": None,
        "row_id": 7,
        "LastModified": "2026-11-23T11:00:00.000+0000",
        "Environment": {"Variables": {"A": "b"}, "Error": None},
        "Layers": [{"Arn": "a", "CodeSize": None}],
    }
    response = serialiser_of(operations()["CreateFunction"])(result)
    assert response.status == 201
    assert json.loads(response.body) == {
        "FunctionName": "f",
        "LastModified": "2026-11-23T11:00:00.000+0000",
        "Environment": {"Variables": {"A": "b"}},
        "Layers": [{"Arn": "a"}],
    }


def test_invoke_has_a_raw_payload_and_headers() -> None:
    serialise = serialiser_of(operations()["Invoke"])
    response = serialise(
        {"StatusCode": 200, "Payload": b"\xff", "FunctionError": "Unhandled", "LogResult": None, "ExecutedVersion": "3"}
    )
    assert response.body == b"\xff"
    assert dict(response.headers) == {b"x-amz-function-error": b"Unhandled", b"x-amz-executed-version": b"3"}
    assert serialise({"StatusCode": 202}).status == 202
    assert serialise({"StatusCode": 204, "Payload": b"x"}).body == b""


def test_answers_without_content_have_status_204() -> None:
    assert serialiser_of(operations()["DeleteFunction"])({}).status == 204
    response = serialiser_of(operations()["TagResource"])({})
    assert (response.status, response.body) == (204, b"")


def test_timestamps_of_answers_are_in_seconds() -> None:
    when = datetime(2026, 11, 23, 11, tzinfo=UTC)
    response = serialiser_of(operations()["GetEventSourceMapping"])({"LastModified": when, "UUID": "u"})
    assert json.loads(response.body) == {"LastModified": when.timestamp(), "UUID": "u"}


def test_error_of_the_model() -> None:
    error = AwsError(
        "TooManyRequestsException",
        "Rate Exceeded.",
        Reason="ReservedFunctionConcurrentInvocationLimitExceeded",
        retryAfterSeconds=1,
    )
    status, headers, body = encode_error(error)
    assert status == 429
    assert headers == [(b"x-amzn-errortype", b"TooManyRequestsException"), (b"retry-after", b"1")]
    assert json.loads(body) == {
        "Reason": "ReservedFunctionConcurrentInvocationLimitExceeded",
        "Type": "User",
        "message": "Rate Exceeded.",
    }


def test_the_message_member_is_the_models() -> None:
    assert json.loads(encode_error(AwsError("ResourceNotFoundException", "m"))[2]) == {"Type": "User", "Message": "m"}
    assert json.loads(encode_error(AwsError("InvalidParameterValueException", "m"))[2])["message"] == "m"
    assert json.loads(encode_error(AwsError("ServiceException", "m"))[2]) == {"Type": "Service", "Message": "m"}


def test_an_error_has_its_status() -> None:
    assert AwsError("ServiceException", "m").status == 500
    assert AwsError("ServiceException", "m", status=503).status == 503
    assert AwsError("AccessDeniedException", "m").status == 403
    assert AwsError("SomethingNobodyKnows", "m").status == 400
