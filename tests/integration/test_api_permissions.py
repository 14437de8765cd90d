"""Resource policies through boto3."""

import json
from typing import Any

import pytest

from tests.services.api import Functions

INVOKE = "lambda:InvokeFunction"


def add(api: Functions, sid: str = "one", principal: str = "s3.amazonaws.com", **members: Any) -> dict[str, Any]:
    answer = api.client.add_permission(
        **{"FunctionName": "fn", "StatementId": sid, "Action": INVOKE, "Principal": principal, **members}
    )
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 201
    found = json.loads(answer["Statement"])
    assert isinstance(found, dict)
    return found


def test_statements_make_up_the_policy(api: Functions) -> None:
    api.create()
    before = api.revision()
    one = add(
        api, SourceArn="arn:aws:s3:::bucket", SourceAccount="111111111111", EventSourceToken="t", PrincipalOrgID="o-1234567890"
    )  # fmt: skip
    assert one == {
        "Sid": "one", "Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": INVOKE,
        "Resource": api.arn("fn"),
        "Condition": {
            "StringEquals": {
                "aws:PrincipalOrgID": "o-1234567890", "AWS:SourceAccount": "111111111111", "lambda:EventSourceToken": "t",
            },
            "ArnLike": {"AWS:SourceArn": "arn:aws:s3:::bucket"},
        },
    }  # fmt: skip
    two = add(api, "two", "222222222222")
    assert two["Principal"] == {"AWS": "arn:aws:iam::222222222222:root"}
    assert "Condition" not in two
    three = add(api, "three", "arn:aws:iam::222222222222:user/u")
    assert three["Principal"] == {"AWS": "arn:aws:iam::222222222222:user/u"}
    assert add(api, "alexa", "alexa-appkit.amazon.com")["Principal"] == {"Service": "alexa-appkit.amazon.com"}
    api.client.remove_permission(FunctionName="fn", StatementId="alexa")
    four = add(api, "four", "*", Action="lambda:InvokeFunctionUrl", FunctionUrlAuthType="NONE")
    assert four["Principal"] == "*"
    assert four["Condition"] == {"StringEquals": {"lambda:FunctionUrlAuthType": "NONE"}}
    answer = api.client.get_policy(FunctionName="fn")
    assert json.loads(answer["Policy"]) == {
        "Version": "2012-10-17",
        "Id": "default",
        "Statement": [one, two, three, four],
    }
    assert answer["RevisionId"] == api.revision() != before


def test_add_permission_refuses_in_awss_words(api: Functions) -> None:
    api.create()
    add(api)
    request = {"FunctionName": "fn", "StatementId": "one", "Action": INVOKE, "Principal": "*"}
    error = api.refused("add_permission", **request)
    assert error == (
        "ResourceConflictException", 409,
        "The statement id (one) provided already exists. Please provide a new statement id, or remove the existing statement.",
    )  # fmt: skip
    error = api.refused("add_permission", **{**request, "StatementId": "two", "Principal": "who"})
    assert error[2] == "The provided principal was invalid. Please check the principal and try again."
    error = api.refused("add_permission", **{**request, "StatementId": "two", "FunctionUrlAuthType": "NONE"})
    assert error[2] == "FunctionUrlAuthType is only supported for lambda:InvokeFunctionUrl action"
    error = api.refused("add_permission", **{**request, "Qualifier": "$LATEST"})
    assert error[2] == "We currently do not support adding policies for $LATEST."
    error = api.refused("add_permission", **{**request, "Qualifier": "none"})
    assert error == ("ResourceNotFoundException", 404, f"Cannot find alias arn: {api.arn('fn', 'none')}")
    error = api.refused("add_permission", **{**request, "StatementId": "a b"})
    assert error[0] == "ValidationException"


def test_a_removed_statement_is_gone_from_the_policy(api: Functions) -> None:
    api.create()
    error = api.refused("get_policy", FunctionName="fn")
    assert error == ("ResourceNotFoundException", 404, "The resource you requested does not exist.")
    error = api.refused("remove_permission", FunctionName="fn", StatementId="one")
    assert error == ("ResourceNotFoundException", 404, "No policy is associated with the given resource.")
    add(api)
    error = api.refused("remove_permission", FunctionName="fn", StatementId="two")
    assert error == ("ResourceNotFoundException", 404, "Statement two is not found in resource policy.")
    answer = api.client.remove_permission(FunctionName="fn", StatementId="one")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert api.refused("get_policy", FunctionName="fn")[0] == "ResourceNotFoundException"
    error = api.refused("remove_permission", FunctionName="none", StatementId="one")
    assert error == ("ResourceNotFoundException", 404, f"No policy found for: {api.arn('none')}")


@pytest.mark.parametrize("qualifier", ["1", "live"])
def test_policies_of_versions_and_aliases_are_their_own(api: Functions, qualifier: str) -> None:
    api.create(Publish=True)
    api.client.create_alias(FunctionName="fn", Name="live", FunctionVersion="1")
    add(api)
    found = add(api, Qualifier=qualifier)
    assert found["Resource"] == api.arn("fn", qualifier)
    answer = api.client.get_policy(FunctionName="fn", Qualifier=qualifier)
    assert json.loads(answer["Policy"])["Statement"] == [found]
    api.client.remove_permission(
        FunctionName="fn", StatementId="one", Qualifier=qualifier, RevisionId=answer["RevisionId"]
    )
    assert api.client.get_policy(FunctionName="fn")


def test_a_stale_revision_id_is_refused(api: Functions) -> None:
    api.create()
    old = api.revision()
    add(api, RevisionId=old)
    stale = (
        "PreconditionFailedException", 412,
        ("The Revision Id provided does not match the latest Revision Id. "
        "Call the GetPolicy API to retrieve the latest Revision Id"),
    )  # fmt: skip
    request = {"FunctionName": "fn", "StatementId": "two", "Action": INVOKE, "Principal": "*", "RevisionId": old}
    assert api.refused("add_permission", **request) == stale
    assert api.refused("remove_permission", FunctionName="fn", StatementId="one", RevisionId=old) == stale


def test_a_policy_that_grows_too_large_is_refused(api: Functions) -> None:
    api.create()
    members = {"SourceArn": "arn:aws:s3:::" + "b" * 9000}
    add(api, "one", **members)
    add(api, "two", **members)
    request = {"FunctionName": "fn", "StatementId": "three", "Action": INVOKE, "Principal": "*", **members}
    error = api.refused("add_permission", **request)
    assert error[:2] == ("PolicyLengthExceededException", 400)
    assert error[2].endswith("is bigger than the limit (20480).")
