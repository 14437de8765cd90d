"""Operations on tags."""

from collections.abc import Mapping

from dispatcher.catalog import tags
from dispatcher.catalog.rows import MODE_TAG, FunctionKey
from dispatcher.operations.call import Call, Request, Response
from dispatcher.operations.naming import target_of
from dispatcher.operations.registry import operation
from dispatcher.wire.errors import AwsError
from workers.contract.messages import MODES


def check_tags(changes: Mapping[str, str]) -> None:
    """AWS's rules beyond the model's, and ours: ``everwarm:mode`` names a mode."""
    for key in changes:
        if key.lower().startswith("aws:"):
            raise AwsError(
                "InvalidParameterValueException",
                "Could not tag this resource. aws: prefixed tag key names are not allowed for external use.",
            )
    mode = changes.get(MODE_TAG)
    if mode is not None and mode not in MODES:
        raise AwsError(
            "InvalidParameterValueException", f"The tag {MODE_TAG} must be one of {', '.join(MODES)}, not '{mode}'."
        )


def _tagged(call: Call, action: str, arn: str) -> FunctionKey:
    if ":function:" not in arn:
        raise AwsError("InvalidParameterValueException", f"The resource {arn} can't have tags on this server.")
    key, qualifier = target_of(call, action, arn, None)
    if qualifier is not None:
        raise AwsError(
            "InvalidParameterValueException",
            "Tags on function aliases and versions are not supported. Please specify a function ARN.",
        )
    return key


@operation("TagResource")
async def tag_resource(call: Call, request: Request) -> Response:
    """Set tags of a function."""
    key = _tagged(call, "TagResource", request["Resource"])
    check_tags(request["Tags"])
    await call.services.catalog.write(tags.tag, key, request["Tags"])
    return {}


@operation("UntagResource")
async def untag_resource(call: Call, request: Request) -> Response:
    """Remove tags of a function."""
    key = _tagged(call, "UntagResource", request["Resource"])
    await call.services.catalog.write(tags.untag, key, request["TagKeys"])
    return {}


@operation("ListTags")
async def list_tags(call: Call, request: Request) -> Response:
    """The tags of a function."""
    key = _tagged(call, "ListTags", request["Resource"])
    return {"Tags": await call.services.catalog.read(tags.list_tags, key)}
