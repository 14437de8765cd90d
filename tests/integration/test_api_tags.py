"""Tags through boto3."""

from typing import Any

import pytest

from tests.services.api import REGION, Functions


def test_tags_are_added_listed_and_removed(api: Functions) -> None:
    answer = api.create(Tags={"team": "a"})
    arn = answer["FunctionArn"]
    assert api.client.list_tags(Resource=arn)["Tags"] == {"team": "a"}
    tagged = api.client.tag_resource(Resource=arn, Tags={"team": "b", "ünï /:=+-@_.": "", "k": "v"})
    assert tagged["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert api.client.list_tags(Resource=arn)["Tags"] == {"team": "b", "ünï /:=+-@_.": "", "k": "v"}
    untagged = api.client.untag_resource(Resource=arn, TagKeys=["team", "ünï /:=+-@_.", "none"])
    assert untagged["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert api.client.get_function(FunctionName="fn")["Tags"] == {"k": "v"}
    api.client.untag_resource(Resource=arn, TagKeys=["k"])
    assert "Tags" not in api.client.get_function(FunctionName="fn")


def test_the_mode_tag_picks_a_pool(api: Functions) -> None:
    api.create()
    arn = api.arn("fn")

    def mode() -> Any:
        return api.server.call(lambda: api.server.catalog.resolve(api.account, REGION, "fn")).mode

    assert mode() is None
    api.client.tag_resource(Resource=arn, Tags={"everwarm:mode": "docker-reuse"})
    assert mode() == "docker-reuse"
    error = api.refused("tag_resource", Resource=arn, Tags={"everwarm:mode": "lambda"})
    assert error == (
        "InvalidParameterValueException",
        400,
        "The tag everwarm:mode must be one of local, docker, docker-reuse, not 'lambda'.",
    )
    api.client.untag_resource(Resource=arn, TagKeys=["everwarm:mode"])
    assert mode() is None


def test_a_function_has_fifty_tags_at_most(api: Functions) -> None:
    api.create(Tags={f"k{n}": "" for n in range(49)})
    arn = api.arn("fn")
    api.client.tag_resource(Resource=arn, Tags={"k0": "changed", "last": ""})
    error = api.refused("tag_resource", Resource=arn, Tags={"more": ""})
    assert error == ("InvalidParameterValueException", 400, "Number of tags exceeds resource tag limit.")
    assert api.refused("tag_resource", Resource=arn, Tags={"k" * 129: ""})[0] == "ValidationException"
    assert api.refused("tag_resource", Resource=arn, Tags={"k": "v" * 257})[0] == "ValidationException"


@pytest.mark.parametrize("qualifier", ["1", "$LATEST", "live"])
def test_versions_and_aliases_have_no_tags(api: Functions, qualifier: str) -> None:
    api.create(Publish=True)
    error = api.refused("tag_resource", Resource=api.arn("fn", qualifier), Tags={"a": "b"})
    assert error[0] == "InvalidParameterValueException"
    assert error[2] == "Tags on function aliases and versions are not supported. Please specify a function ARN."


def test_tags_of_an_unknown_function_are_refused(api: Functions) -> None:
    missing = ("ResourceNotFoundException", 404, f"Function not found: {api.arn('none')}")
    assert api.refused("list_tags", Resource=api.arn("none")) == missing
    assert api.refused("tag_resource", Resource=api.arn("none"), Tags={"a": "b"}) == missing
    assert api.refused("untag_resource", Resource=api.arn("none"), TagKeys=["a"]) == missing
    assert api.refused("list_tags", Resource="none")[0] == "ValidationException"
