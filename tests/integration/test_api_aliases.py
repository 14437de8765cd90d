"""Aliases through boto3."""

from typing import Any

import pytest

from tests.integration.test_api_functions import plain
from tests.services.api import REGION, Functions


@pytest.fixture
def two(api: Functions) -> Functions:
    """A function with versions 1 and 2."""
    api.create(Publish=True)
    api.client.update_function_configuration(FunctionName="fn", Timeout=9)
    api.wait_updated()
    api.client.publish_version(FunctionName="fn")
    return api


def create(api: Functions, name: str = "live", version: str = "1", **members: Any) -> dict[str, Any]:
    return dict(api.client.create_alias(FunctionName="fn", Name=name, FunctionVersion=version, **members))


def weights(**parts: float) -> dict[str, Any]:
    return {"RoutingConfig": {"AdditionalVersionWeights": {name[1:]: part for name, part in parts.items()}}}


def test_an_alias_is_created_and_read(two: Functions) -> None:
    answer = create(two)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 201
    revision = answer["RevisionId"]
    assert plain(answer) == {
        "AliasArn": two.arn("fn", "live"), "Name": "live", "FunctionVersion": "1", "Description": "", "RevisionId": revision,
    }  # fmt: skip
    assert plain(two.client.get_alias(FunctionName="fn", Name="live")) == plain(answer)
    found = two.client.get_function(FunctionName="fn", Qualifier="live")["Configuration"]
    assert (found["Version"], found["FunctionArn"]) == ("1", two.arn("fn", "live"))
    latest = create(two, "latest", "$LATEST")
    assert latest["FunctionVersion"] == "$LATEST"


def test_an_alias_shares_by_its_weights(two: Functions) -> None:
    answer = create(two, **weights(v2=0.25), Description="canary")
    assert answer["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.25}}
    catalog = two.server.catalog

    def version(random: float) -> str:
        target = two.server.call(lambda: catalog.resolve(two.account, REGION, "fn", "live", random=lambda: random))
        assert target.invoked_arn == two.arn("fn", "live")
        return str(target.executed_version)

    assert [version(random) for random in (0.0, 0.2499, 0.25, 0.9999)] == ["2", "2", "1", "1"]
    unchanged = two.client.update_alias(FunctionName="fn", Name="live", Description="")
    assert unchanged["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.25}}
    assert unchanged["Description"] == ""
    cleared = two.client.update_alias(FunctionName="fn", Name="live", RoutingConfig={})
    assert "RoutingConfig" not in cleared
    assert version(0.0) == "1"


@pytest.mark.parametrize(
    ("version", "routing", "message"),
    [
        ("1", {"2": 0.1, "3": 0.1}, "Number of items in AdditionalVersionWeights cannot be greater than 1"),
        (
            "1",
            {"1": 0.1},
            "Invalid function version 1. Function version 1 is already included in routing configuration.",
        ),
        ("$LATEST", {"1": 0.1}, "$LATEST is not supported for an alias pointing to more than 1 version"),
        ("1", {"7": 0.1}, "Function not found: {arn}:7"),
        ("7", {}, "Function not found: {arn}:7"),
        ("1", {"2": 1.5}, "'routingConfig.additionalVersionWeights' failed to satisfy constraint"),
        ("1", {"live": 0.5}, "'routingConfig.additionalVersionWeights' failed to satisfy constraint"),
        ("1", {"$LATEST": 0.5}, "'routingConfig.additionalVersionWeights' failed to satisfy constraint"),
    ],
)
def test_create_alias_refuses_wrong_routing(
    two: Functions, version: str, routing: dict[str, float], message: str
) -> None:
    error = two.refused(
        "create_alias", FunctionName="fn", Name="live", FunctionVersion=version,
        RoutingConfig={"AdditionalVersionWeights": routing},
    )  # fmt: skip
    assert message.format(arn=two.arn("fn")) in error[2]
    assert two.client.list_aliases(FunctionName="fn")["Aliases"] == []


def test_alias_names_are_checked_and_unique(two: Functions) -> None:
    create(two)
    error = two.refused("create_alias", FunctionName="fn", Name="live", FunctionVersion="1")
    assert error == ("ResourceConflictException", 409, f"Alias already exists: {two.arn('fn', 'live')}")
    for name in ("12", "a b", "$LATEST"):
        assert (
            two.refused("create_alias", FunctionName="fn", Name=name, FunctionVersion="1")[0] == "ValidationException"
        )


def test_text_that_a_database_cannot_hold_is_no_traceback(two: Functions) -> None:
    try:
        create(two, Description="a\0b")
    except two.client.exceptions.InvalidParameterValueException:
        assert two.client.list_aliases(FunctionName="fn")["Aliases"] == []


def test_an_alias_that_is_missing_is_named(two: Functions) -> None:
    error = two.refused("get_alias", FunctionName="fn", Name="none")
    assert error == ("ResourceNotFoundException", 404, f"Cannot find alias arn: {two.arn('fn', 'none')}")
    error = two.refused("update_alias", FunctionName="fn", Name="none", Description="x")
    assert error == ("ResourceNotFoundException", 404, f"Alias not found: {two.arn('fn', 'none')}")
    assert two.client.delete_alias(FunctionName="fn", Name="none")["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_update_and_revision_ids(two: Functions) -> None:
    first = create(two)
    second = two.client.update_alias(
        FunctionName="fn", Name="live", FunctionVersion="2", Description="new", RevisionId=first["RevisionId"]
    )
    assert (second["FunctionVersion"], second["Description"]) == ("2", "new")
    assert second["RevisionId"] != first["RevisionId"]
    error = two.refused("update_alias", FunctionName="fn", Name="live", RevisionId=first["RevisionId"])
    assert error[:2] == ("PreconditionFailedException", 412)
    target = two.server.call(lambda: two.server.catalog.resolve(two.account, REGION, "fn", "live"))
    assert target.executed_version == "2"


def test_aliases_are_listed_page_by_page(two: Functions) -> None:
    for name, version in (("c", "1"), ("a", "2"), ("b", "1")):
        create(two, name, version)
    assert [a["Name"] for a in two.client.list_aliases(FunctionName="fn")["Aliases"]] == ["a", "b", "c"]
    found = two.client.list_aliases(FunctionName="fn", FunctionVersion="1")["Aliases"]
    assert [alias["Name"] for alias in found] == ["b", "c"]
    pages = two.client.get_paginator("list_aliases").paginate(FunctionName="fn", PaginationConfig={"PageSize": 2})
    assert [[alias["Name"] for alias in page["Aliases"]] for page in pages] == [["a", "b"], ["c"]]
