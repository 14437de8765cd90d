"""Versions through boto3."""

from typing import Any

import pytest

from tests.integration.test_api_functions import CREATED, LISTED, OTHER_CODE, READY, plain
from tests.services.api import Functions


def publish(api: Functions, **members: Any) -> str:
    return api.client.publish_version(FunctionName="fn", **members)["Version"]


def test_a_published_version_keeps_what_it_was_made_of(api: Functions) -> None:
    api.create(Description="of the function")
    before = api.revision()
    answer = api.client.publish_version(FunctionName="fn", Description="of the version")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert plain(answer).keys() == READY
    assert (answer["Version"], answer["FunctionArn"]) == ("1", api.arn("fn", "1"))
    assert (answer["Description"], answer["State"]) == ("of the version", "Active")
    assert api.revision() != before
    assert api.client.get_function_configuration(FunctionName="fn")["Description"] == "of the function"


def test_publish_without_a_change_answers_the_last_version(api: Functions) -> None:
    api.create()
    first = api.client.publish_version(FunctionName="fn", Description="first")
    again = api.client.publish_version(FunctionName="fn", Description="again")
    assert plain(again) == plain(first)
    api.client.update_function_configuration(FunctionName="fn", Timeout=7)
    api.wait_updated()
    assert publish(api) == "2"
    api.client.update_function_code(FunctionName="fn", ZipFile=OTHER_CODE)
    api.wait_updated()
    assert publish(api) == "3"


def test_versions_keep_their_code_and_configuration(api: Functions) -> None:
    api.create(Environment={"Variables": {"KEY": "one"}})
    publish(api)
    one = api.client.get_function_configuration(FunctionName="fn", Qualifier="1")
    api.client.update_function_configuration(FunctionName="fn", Environment={"Variables": {"KEY": "two"}})
    api.wait_updated()
    api.client.update_function_code(FunctionName="fn", ZipFile=OTHER_CODE)
    api.wait_updated()
    assert plain(api.client.get_function_configuration(FunctionName="fn", Qualifier="1")) == plain(one)
    target = api.server.call(lambda: api.server.catalog.resolve(api.account, "eu-central-1", "fn", "1"))
    latest = api.server.call(lambda: api.server.catalog.resolve(api.account, "eu-central-1", "fn"))
    assert target.spec.environment == {"KEY": "one"}
    assert latest.spec.environment == {"KEY": "two"}
    assert target.spec.code_sha256 != latest.spec.code_sha256
    assert target.spec.revision != latest.spec.revision
    assert (target.executed_version, target.invoked_arn) == ("1", api.arn("fn", "1"))
    assert (latest.executed_version, latest.invoked_arn) == ("$LATEST", api.arn("fn"))


def test_a_version_published_with_an_update_waits_with_it(api: Functions) -> None:
    api.create()
    answer = api.client.update_function_code(FunctionName="fn", ZipFile=OTHER_CODE, Publish=True)
    assert plain(answer).keys() == CREATED
    assert (answer["State"], answer["StateReasonCode"], answer["Version"]) == ("Pending", "Creating", "1")
    api.wait_updated()
    assert api.client.get_function_configuration(FunctionName="fn", Qualifier="1")["State"] == "Active"


def test_publish_version_checks_its_preconditions(api: Functions) -> None:
    answer = api.create()
    error = api.refused("publish_version", FunctionName="fn", CodeSha256="AAAA")
    assert error == (
        "InvalidParameterValueException",
        400,
        (
            f"CodeSHA256 (AAAA) is different from current CodeSHA256 in $LATEST ({answer['CodeSha256']}). "
            "Please try again with the CodeSHA256 in $LATEST."
        ),
    )
    assert publish(api, CodeSha256=answer["CodeSha256"], RevisionId=api.revision()) == "1"


def test_versions_are_listed_page_by_page(api: Functions) -> None:
    api.create()
    for timeout in (4, 5, 6):
        publish(api)
        api.client.update_function_configuration(FunctionName="fn", Timeout=timeout)
        api.wait_updated()
    found = api.client.list_versions_by_function(FunctionName="fn")["Versions"]
    assert [each["Version"] for each in found] == ["$LATEST", "1", "2", "3"]
    assert [each["FunctionArn"] for each in found] == [api.arn("fn", q) for q in ("$LATEST", "1", "2", "3")]
    assert found[1].keys() == LISTED
    pages = api.client.get_paginator("list_versions_by_function").paginate(
        FunctionName="fn", PaginationConfig={"PageSize": 3}
    )
    assert [[each["Version"] for each in page["Versions"]] for page in pages] == [["$LATEST", "1", "2"], ["3"]]


def test_a_version_is_deleted_unless_an_alias_points_to_it(api: Functions) -> None:
    api.create()
    publish(api)
    api.client.create_alias(FunctionName="fn", Name="live", FunctionVersion="1")
    error = api.refused("delete_function", FunctionName="fn", Qualifier="1")
    assert error == (
        "ResourceConflictException",
        409,
        "Unable to delete version because the following aliases reference it: [live]",
    )
    api.client.delete_alias(FunctionName="fn", Name="live")
    for _ in range(2):  # a version that is gone already is no error
        answer = api.client.delete_function(FunctionName="fn", Qualifier="1")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert [v["Version"] for v in api.client.list_versions_by_function(FunctionName="fn")["Versions"]] == ["$LATEST"]
    assert publish(api) == "2"


@pytest.mark.parametrize(
    ("qualifier", "message"),
    [
        ("$LATEST", "$LATEST version cannot be deleted without deleting the function."),
        ("live", "Deletion of aliases is not currently supported."),
    ],
)
def test_delete_function_refuses_what_can_not_be_deleted(api: Functions, qualifier: str, message: str) -> None:
    api.create()
    error = api.refused("delete_function", FunctionName="fn", Qualifier=qualifier)
    assert error == ("InvalidParameterValueException", 400, message)
    assert api.client.get_function(FunctionName="fn")


def test_deleting_a_function_deletes_its_versions(api: Functions) -> None:
    api.create(Publish=True)
    api.client.create_alias(FunctionName="fn", Name="live", FunctionVersion="1")
    api.client.delete_function(FunctionName="fn")
    api.create()
    assert api.client.list_aliases(FunctionName="fn")["Aliases"] == []
    assert api.refused("get_function", FunctionName="fn", Qualifier="1")[0] == "ResourceNotFoundException"
