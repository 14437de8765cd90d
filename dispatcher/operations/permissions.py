"""Operations on resource policies. They are kept and shown as AWS does; nothing here is decided by them."""

import json
import re
from typing import Any, Final

from dispatcher.catalog import policies
from dispatcher.catalog.rows import FunctionKey
from dispatcher.operations.call import Call, Request, Response
from dispatcher.operations.naming import qualified
from dispatcher.operations.registry import operation
from dispatcher.wire.arn import LATEST, partition_of
from dispatcher.wire.errors import AwsError

_ACCOUNT: Final = re.compile(r"\d{12}")
_IAM_ARN: Final = re.compile(r"arn:aws[a-zA-Z-]*:(iam|sts)::.*")
#: Alexa's service principals end in amazon.com.
_SERVICE: Final = re.compile(r"[a-z0-9.-]+\.(amazonaws\.com(\.cn)?|amazon\.com)")
_URL_ACTION: Final = "lambda:InvokeFunctionUrl"


@operation("AddPermission")
async def add_permission(call: Call, request: Request) -> Response:
    """Append a statement to the policy of a function, version or alias."""
    key, qualifier = qualified(call, "AddPermission", request)
    if qualifier == LATEST:
        raise _invalid("We currently do not support adding policies for $LATEST.")
    statement = _statement(key, qualifier, request)
    await call.services.catalog.write(policies.add, key, qualifier, request.get("RevisionId"), statement)
    return {"Statement": json.dumps(statement, separators=(",", ":"))}


def _statement(key: FunctionKey, qualifier: str | None, request: Request) -> dict[str, Any]:
    statement = {
        "Sid": request["StatementId"],
        "Effect": "Allow",
        "Principal": _principal(request["Principal"], key.region),
        "Action": request["Action"],
        "Resource": key.arn(qualifier),
    }
    condition = _condition(request)
    return {**statement, "Condition": condition} if condition else statement


def _principal(principal: str, region: str) -> Any:
    if principal == "*":
        return "*"
    if _ACCOUNT.fullmatch(principal):
        return {"AWS": f"arn:{partition_of(region)}:iam::{principal}:root"}
    if _IAM_ARN.fullmatch(principal):
        return {"AWS": principal}
    if _SERVICE.fullmatch(principal):
        return {"Service": principal}
    raise _invalid("The provided principal was invalid. Please check the principal and try again.")


def _condition(request: Request) -> dict[str, dict[str, str]]:
    if request.get("FunctionUrlAuthType") and request["Action"] != _URL_ACTION:
        raise _invalid("FunctionUrlAuthType is only supported for lambda:InvokeFunctionUrl action")
    equals = {
        "lambda:FunctionUrlAuthType": request.get("FunctionUrlAuthType"),
        "aws:PrincipalOrgID": request.get("PrincipalOrgID"),
        "AWS:SourceAccount": request.get("SourceAccount"),
        "lambda:EventSourceToken": request.get("EventSourceToken"),
    }
    operators: dict[str, dict[str, str]] = {
        "StringEquals": {name: value for name, value in equals.items() if value},
        "Bool": {"lambda:InvokedViaFunctionUrl": "true"} if request.get("InvokedViaFunctionUrl") else {},
        "ArnLike": {"AWS:SourceArn": request["SourceArn"]} if request.get("SourceArn") else {},
    }
    return {operator: values for operator, values in operators.items() if values}


@operation("RemovePermission")
async def remove_permission(call: Call, request: Request) -> Response:
    """Take a statement away."""
    key, qualifier = qualified(call, "RemovePermission", request)
    await call.services.catalog.write(
        policies.remove, key, qualifier, request.get("RevisionId"), request["StatementId"]
    )
    return {}


@operation("GetPolicy")
async def get_policy(call: Call, request: Request) -> Response:
    """The policy as a JSON document in a string."""
    key, qualifier = qualified(call, "GetPolicy", request)
    document, revision_id = await call.services.catalog.read(policies.read, key, qualifier)
    return {"Policy": json.dumps(document, separators=(",", ":")), "RevisionId": revision_id}


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterValueException", message)
