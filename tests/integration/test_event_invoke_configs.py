"""The configuration of asynchronous invocations through boto3. Answers and errors are those recorded from AWS."""

import time
from typing import Any

import pytest

from tests.integration.test_api_functions import plain
from tests.services.api import REGION, Functions

QUEUE = f"arn:aws:sqs:{REGION}:111111111111:queue"
TOPIC = f"arn:aws:sns:{REGION}:111111111111:topic"
BUS = f"arn:aws:events:{REGION}:111111111111:event-bus/default"
BUCKET = "arn:aws:s3:::bucket"
NO_FUNCTION = ("ResourceNotFoundException", 404, "The function doesn't exist.")
NONE: dict[str, Any] = {"OnSuccess": {}, "OnFailure": {}}


@pytest.fixture
def two(api: Functions) -> Functions:
    """A function ``fn`` with version 1 and the alias ``live``, and a function ``other``."""
    api.create(Publish=True)
    api.client.create_alias(FunctionName="fn", Name="live", FunctionVersion="1")
    api.create("other")
    return api


def put(api: Functions, name: str = "fn", **members: Any) -> dict[str, Any]:
    return plain(api.client.put_function_event_invoke_config(FunctionName=name, **members))


def to(success: str = "", failure: str = "") -> dict[str, Any]:
    parts = {"OnSuccess": {"Destination": success}, "OnFailure": {"Destination": failure}}
    return {"DestinationConfig": {name: part for name, part in parts.items() if part["Destination"]}}


def refused(api: Functions, **members: Any) -> tuple[str, int, str]:
    return api.refused("put_function_event_invoke_config", FunctionName="fn", **members)


def missing(api: Functions, qualifier: str, name: str = "fn") -> tuple[str, int, str]:
    message = f"The function {api.arn(name, qualifier)} doesn't have an EventInvokeConfig"
    return "ResourceNotFoundException", 404, message


def test_put_update_get_delete(two: Functions) -> None:
    first = put(two, MaximumRetryAttempts=0, **to(two.arn("other"), BUCKET))
    assert abs(first.pop("LastModified").timestamp() - time.time()) < 60
    assert first == {
        "FunctionArn": two.arn("fn", "$LATEST"), "MaximumRetryAttempts": 0,
        "DestinationConfig": {
            "OnSuccess": {"Destination": two.arn("other")}, "OnFailure": {"Destination": BUCKET},
        },
    }  # fmt: skip

    def update(**members: Any) -> dict[str, Any]:
        return plain(two.client.update_function_event_invoke_config(FunctionName="fn", **members))

    second = update(MaximumEventAgeInSeconds=60, **to(failure=QUEUE))
    assert (second["MaximumRetryAttempts"], second["MaximumEventAgeInSeconds"]) == (0, 60)
    assert second["DestinationConfig"] == {
        "OnSuccess": {"Destination": two.arn("other")}, "OnFailure": {"Destination": QUEUE},
    }  # fmt: skip
    cleared = update(DestinationConfig={"OnSuccess": {"Destination": ""}, "OnFailure": {}})
    assert cleared["DestinationConfig"] == NONE
    assert plain(two.client.get_function_event_invoke_config(FunctionName="fn", Qualifier="$LATEST")) == cleared

    third = put(two, MaximumEventAgeInSeconds=21600)
    assert third.keys() == {"FunctionArn", "LastModified", "MaximumEventAgeInSeconds", "DestinationConfig"}
    assert put(two, DestinationConfig={"OnSuccess": {}}).keys() == {"FunctionArn", "LastModified", "DestinationConfig"}

    gone = two.client.delete_function_event_invoke_config(FunctionName="fn")
    assert gone["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert two.refused("delete_function_event_invoke_config", FunctionName="fn") == missing(two, "$LATEST")


def test_each_qualifier_has_its_own(two: Functions) -> None:
    for name, retries in (("fn", 0), ("fn:1", 1), (two.arn("fn", "live"), 2)):
        answer = put(two, name, MaximumRetryAttempts=retries)
        assert answer["MaximumRetryAttempts"] == retries
    read = two.client.get_function_event_invoke_config
    assert read(FunctionName="fn", Qualifier="live")["MaximumRetryAttempts"] == 2
    assert read(FunctionName="fn:1")["FunctionArn"] == two.arn("fn", "1")

    def retries_of(qualifier: str | None) -> int:
        target = two.server.call(lambda: two.server.catalog.resolve(two.account, REGION, "fn", qualifier))
        return int(target.event_config.maximum_retries)

    assert [retries_of(qualifier) for qualifier in (None, "1", "live")] == [0, 1, 2]
    two.client.update_function_event_invoke_config(FunctionName="fn:live", MaximumRetryAttempts=0)
    assert retries_of("live") == 0
    error = refused(two, Qualifier="live", MaximumRetryAttempts=3)
    assert error[0] == "ValidationException"
    error = two.refused(
        "put_function_event_invoke_config", FunctionName="fn:1", Qualifier="live", MaximumRetryAttempts=1
    )
    assert error[2] == "The derived qualifier from the function name does not match the specified qualifier."


def test_event_invoke_configs_are_listed_page_by_page(two: Functions) -> None:
    list_configs = two.client.list_function_event_invoke_configs
    assert plain(list_configs(FunctionName="fn")) == {"FunctionEventInvokeConfigs": []}
    answers = [put(two, name, MaximumRetryAttempts=0) for name in ("fn", "fn:1", "fn:live")]
    put(two, "other", MaximumRetryAttempts=1)
    assert plain(list_configs(FunctionName="fn")) == {"FunctionEventInvokeConfigs": answers}
    first = list_configs(FunctionName="fn", MaxItems=2)
    assert first["FunctionEventInvokeConfigs"] == answers[:2]
    second = list_configs(FunctionName="fn", MaxItems=2, Marker=first["NextMarker"])
    assert plain(second) == {"FunctionEventInvokeConfigs": answers[2:]}
    paginator = two.client.get_paginator("list_function_event_invoke_configs")
    pages = paginator.paginate(FunctionName="fn", PaginationConfig={"PageSize": 1})
    assert [config for page in pages for config in page["FunctionEventInvokeConfigs"]] == answers
    error = two.refused("list_function_event_invoke_configs", FunctionName="fn", Marker="x")
    assert error == ("InvalidParameterValueException", 400, "Invalid Marker")
    assert two.refused("list_function_event_invoke_configs", FunctionName="none") == NO_FUNCTION


def test_what_does_not_exist(two: Functions) -> None:
    for operation in ("put_function_event_invoke_config", "update_function_event_invoke_config"):
        for name in ("none", "fn:none", "fn:7"):
            assert two.refused(operation, FunctionName=name, MaximumRetryAttempts=1) == NO_FUNCTION
    update = "update_function_event_invoke_config"
    assert two.refused(update, FunctionName="fn", MaximumRetryAttempts=1) == missing(two, "$LATEST")
    for operation in ("get_function_event_invoke_config", "delete_function_event_invoke_config"):
        assert two.refused(operation, FunctionName="none") == missing(two, "$LATEST", "none")
        for qualifier in ("live", "none", "7"):
            assert two.refused(operation, FunctionName="fn", Qualifier=qualifier) == missing(two, qualifier)


def test_an_event_invoke_config_with_nothing_to_set_is_refused(two: Functions) -> None:
    for operation in ("put_function_event_invoke_config", "update_function_event_invoke_config"):
        assert two.refused(operation, FunctionName="none") == (
            "InvalidParameterValueException", 400,
            "You must specify at least one of error handling or destination setting.",
        )  # fmt: skip


def test_destinations_are_checked_when_they_are_set(two: Functions) -> None:
    two.client.publish_version(FunctionName="other")
    two.client.create_alias(FunctionName="other", Name="live", FunctionVersion="1")
    others = [two.arn("other", qualifier) for qualifier in ("1", "live", "$LATEST")]
    for success, failure in ((QUEUE, TOPIC), (BUS, BUCKET), *((other, BUS) for other in others)):
        found = put(two, **to(success, failure))["DestinationConfig"]
        assert found == {"OnSuccess": {"Destination": success}, "OnFailure": {"Destination": failure}}

    def invalid(message: str) -> tuple[str, int, str]:
        return "InvalidParameterValueException", 400, message

    for own in (two.arn("fn"), two.arn("fn", "1")):
        assert refused(two, Qualifier="live", **to(own)) == invalid(
            "You can't specify the function as a destination for itself."
        )
    # Functions and qualifiers that are missing, and functions of others whether they are there or not.
    stranger = Functions(two.server, str(int(two.account) + 500_000_000_000))
    stranger.create()
    lost = (two.arn("none"), two.arn("other", "none"), two.arn("other", "2"), stranger.arn("fn"), stranger.arn("none"))
    for arn in lost:
        assert refused(two, **to(arn)) == invalid(f"The destination ARN {arn} is invalid.")
    for arn in (*lost, f"{QUEUE}.fifo", f"{TOPIC}.fifo", f"arn:aws:events:{REGION}:111111111111:rule/r"):
        assert refused(two, **to(failure=arn)) == invalid(f"The destination ARN {arn} is invalid.")
    role = "arn:aws:iam::111111111111:role/r"
    whole = "The provided destination config DestinationConfig(onSuccess={}, onFailure={}) is invalid."
    assert refused(two, **to(role)) == invalid(whole.format(f"OnSuccess(destination={role})", "null"))
    assert refused(two, **to(BUCKET, BUCKET)) == invalid(
        whole.format(f"OnSuccess(destination={BUCKET})", f"OnFailure(destination={BUCKET})")
    )
    assert refused(two, **to(failure="kafka://topic"))[2] == whole.format(
        "null", "OnFailure(destination=kafka://topic)"
    )
    assert refused(two, **to(failure="queue"))[0] == "ValidationException"
    # What was refused changed nothing.
    found = two.client.get_function_event_invoke_config(FunctionName="fn")["DestinationConfig"]
    assert found["OnFailure"] == {"Destination": BUS}


@pytest.mark.parametrize(
    ("arn", "reason"),
    [
        (BUS, "The service specified by the TargetArn is not supported for dead letter configuration."),
        (f"{QUEUE}.fifo", "FIFO SQS queue is not supported for dead letter configuration"),
        (f"{TOPIC}.fifo", "FIFO SNS topic is not supported for dead letter configuration"),
        ("arn:aws:sqs:queue", "arn:aws:sqs:queue names no queue and no topic"),
        (f"{QUEUE}{'x' * 80}", f"{QUEUE}{'x' * 80} names no queue and no topic"),
    ],
)
def test_dead_letter_targets_are_checked_when_they_are_set(two: Functions, arn: str, reason: str) -> None:
    expected = ("InvalidParameterValueException", 400, f"Invalid dead letter queue ARN: {reason}")
    config: dict[str, Any] = {"DeadLetterConfig": {"TargetArn": arn}}
    assert two.refused("update_function_configuration", FunctionName="fn", **config) == expected
    with pytest.raises(two.client.exceptions.InvalidParameterValueException):
        two.create("third", wait=False, **config)
    answer = two.client.update_function_configuration(FunctionName="fn", DeadLetterConfig={"TargetArn": TOPIC})
    assert answer["DeadLetterConfig"] == {"TargetArn": TOPIC}
