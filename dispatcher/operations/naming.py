"""From the ``FunctionName`` of a request to the function's key in the catalog."""

from typing import Any

from dispatcher.catalog.rows import FunctionKey
from dispatcher.operations.call import Call
from dispatcher.wire.arn import parse_function_name
from dispatcher.wire.errors import AwsError


def key_of(call: Call, action: str, text: str) -> FunctionKey:
    """The function that ``text`` names, whatever its qualifier. See :func:`target_of`."""
    return target_of(call, action, text, None)[0]


def target_of(call: Call, action: str, text: str, qualifier: str | None) -> tuple[FunctionKey, str | None]:
    """The function and the qualifier, which a request may give in the name, as a parameter, or not at all.

    ``action`` is the operation's name, for AWS's message. Raises ``AccessDeniedException`` for another account's
    function, and ``InvalidParameterValueException`` for two qualifiers that differ.
    """
    name = parse_function_name(text, call.account, call.region)
    if name.account != call.account:
        raise AwsError(
            "AccessDeniedException",
            f"User: arn:aws:iam::{call.account}:root is not authorized to perform: lambda:{action} "
            f"on resource: {name.arn} because no resource-based policy allows the lambda:{action} action",
        )
    if name.qualifier is not None and qualifier not in (None, name.qualifier):
        raise AwsError(
            "InvalidParameterValueException",
            "The derived qualifier from the function name does not match the specified qualifier.",
        )
    return FunctionKey(name.account, name.region, name.name), qualifier or name.qualifier


def qualified(call: Call, action: str, request: dict[str, Any]) -> tuple[FunctionKey, str | None]:
    """:func:`target_of` of a request with ``FunctionName`` and perhaps ``Qualifier``."""
    return target_of(call, action, request["FunctionName"], request.get("Qualifier"))
