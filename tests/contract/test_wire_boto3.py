"""The wire format as boto3 sees it, over real HTTP."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from dispatcher.settings import Credential, DispatcherSettings
from tests.contract.wire_server import client, serving


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serving(DispatcherSettings(code_zipped_bytes=3_000_000)) as url:
        yield url


@pytest.fixture(scope="module")
def lambda_(endpoint: str) -> Any:
    return client(endpoint)


def error_of(raised: pytest.ExceptionInfo[ClientError]) -> tuple[str, str, int]:
    response = raised.value.response
    return response["Error"]["Code"], response["Error"]["Message"], response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize(
    "name",
    [
        "f",
        "f:live",
        "111122223333:function:f:1",
        "arn:aws:lambda:eu-west-1:111122223333:function:f",
        "arn:aws:lambda:eu-west-1:111122223333:function:f:$LATEST",
    ],
)
def test_invoke_by_every_form_of_name(lambda_: Any, name: str) -> None:
    answer = lambda_.invoke(FunctionName=name, Payload=b'{"a": "\xc3\xa9"}', Qualifier="$LATEST")
    assert answer["StatusCode"] == 200
    assert answer["Payload"].read() == b'{"a": "\xc3\xa9"}'
    assert answer["ExecutedVersion"] == "$LATEST"
    assert "FunctionError" not in answer
    assert len(answer["ResponseMetadata"]["RequestId"]) == 36


def test_invocation_types_and_headers(lambda_: Any) -> None:
    assert lambda_.invoke(FunctionName="f", InvocationType="Event", Payload=b"{}")["StatusCode"] == 202
    assert lambda_.invoke(FunctionName="f", InvocationType="DryRun")["StatusCode"] == 204
    assert lambda_.invoke(FunctionName="f", ClientContext="e30=")["FunctionError"] == "e30="


def test_large_payloads_both_ways(lambda_: Any) -> None:
    payload = b'"' + b"x" * 6_291_554 + b'"'
    assert lambda_.invoke(FunctionName="f", Payload=payload)["Payload"].read() == payload


def test_a_payload_that_is_too_large_is_refused_in_awss_words(lambda_: Any) -> None:
    with pytest.raises(lambda_.exceptions.RequestTooLargeException) as raised:
        lambda_.invoke(FunctionName="f", Payload=b'"' + b"x" * 6_291_555 + b'"')
    message = "Request must be smaller than 6291556 bytes for the InvokeFunction operation"
    assert error_of(raised) == ("RequestTooLargeException", message, 413)
    with pytest.raises(lambda_.exceptions.RequestTooLargeException):
        lambda_.invoke(FunctionName="f", InvocationType="Event", Payload=b'"' + b"x" * 1_048_576 + b'"')


def test_a_zip_that_is_too_large_is_refused_in_awss_words(lambda_: Any) -> None:
    with pytest.raises(ClientError) as raised:
        lambda_.create_function(FunctionName="f", Role="r", Code={"ZipFile": b"x" * 3_000_000})
    message = "Request must be smaller than 4000000 bytes for the CreateFunction operation"
    assert error_of(raised) == ("RequestEntityTooLargeException", message, 413)


def test_payload_that_is_not_json(lambda_: Any) -> None:
    with pytest.raises(lambda_.exceptions.InvalidRequestContentException) as raised:
        lambda_.invoke(FunctionName="f", Payload=b"{nonsense}")
    assert error_of(raised)[1].startswith("Could not parse request body into json: ")


def test_create_function_is_understood_and_answered(lambda_: Any) -> None:
    answer = lambda_.create_function(
        FunctionName="f", Role="arn:aws:iam::123456789012:role/r", Code={"ZipFile": b"x" * 2_000_000}
    )
    del answer["ResponseMetadata"]
    assert answer == {
        "FunctionName": "f",
        "FunctionArn": "arn:aws:lambda:eu-west-1:111122223333:function:f",
        "CodeSize": 2_000_000,
    }


def test_query_parameters_and_identity_reach_the_operation(lambda_: Any) -> None:
    assert lambda_.list_functions(MaxItems=7)["NextMarker"] == "111122223333 eu-west-1 7"
    lambda_.untag_resource(Resource="arn:aws:lambda:eu-west-1:111122223333:function:f", TagKeys=["a b", "c=d", "ü"])


def test_invalid_members_are_named_in_awss_words(lambda_: Any) -> None:
    with pytest.raises(ClientError) as raised:
        lambda_.invoke(FunctionName="no such name", Qualifier="!")
    code, message, status = error_of(raised)
    assert (code, status) == ("ValidationException", 400)
    assert message.startswith("2 validation errors detected: Value 'no such name' at 'functionName' failed to satisfy")


def test_errors_of_the_model(lambda_: Any) -> None:
    with pytest.raises(lambda_.exceptions.ResourceNotFoundException) as raised:
        lambda_.get_function(FunctionName="f")
    assert error_of(raised) == ("ResourceNotFoundException", "Function not found: f", 404)
    assert raised.value.response["Type"] == "User"
    with pytest.raises(lambda_.exceptions.TooManyRequestsException) as raised:
        lambda_.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    assert raised.value.response["Reason"] == "CallerRateLimitExceeded"
    assert raised.value.response["retryAfterSeconds"] == "7"


def test_operations_not_built_and_bugs(lambda_: Any) -> None:
    with pytest.raises(ClientError) as raised:
        lambda_.list_layers()
    code, message, status = error_of(raised)
    assert (code, status) == ("NotImplemented", 501)
    assert "ListLayers" in message
    with pytest.raises(lambda_.exceptions.ServiceException) as raised:
        lambda_.delete_function(FunctionName="f")
    assert error_of(raised) == ("ServiceException", "An internal error occurred.", 500)


def test_signatures_are_verified_when_credentials_are_configured() -> None:
    credential = Credential("AKIAEXAMPLE", "secret", "999988887777")
    with serving(DispatcherSettings(credentials=(credential,))) as endpoint:
        good = client(endpoint, "AKIAEXAMPLE", "secret")
        assert good.list_functions()["NextMarker"].startswith("999988887777 eu-west-1")
        name = "arn:aws:lambda:eu-west-1:999988887777:function:f:$LATEST"
        context = {"ClientContext": "a  b"}
        assert good.invoke(FunctionName=name, Payload=b"{}", Qualifier="$LATEST", **context)["StatusCode"] == 200
        good.untag_resource(Resource=name[:-8], TagKeys=["a b", "c=d", "ü"])
        for key, secret, code in (
            ("AKIAEXAMPLE", "wrong", "InvalidSignatureException"),
            ("AKIANOBODY", "secret", "UnrecognizedClientException"),
        ):
            with pytest.raises(ClientError) as raised:
                client(endpoint, key, secret).list_functions()
            assert error_of(raised)[::2] == (code, 403)


def test_presigned_urls_are_verified() -> None:
    credential = Credential("AKIAEXAMPLE", "secret", "999988887777")
    with serving(DispatcherSettings(credentials=(credential,))) as endpoint:
        url = client(endpoint, "AKIAEXAMPLE", "secret").generate_presigned_url("list_functions", {"MaxItems": 3})
        assert httpx.get(url).json()["NextMarker"] == "999988887777 eu-west-1 3"
        assert httpx.get(url.replace("MaxItems=3", "MaxItems=4")).status_code == 403
        assert httpx.get(f"{endpoint}/2015-03-31/functions").status_code == 403
