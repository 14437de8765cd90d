"""Operations on the configuration of asynchronous invocations."""

from typing import Any

from dispatcher.catalog import event_configs
from dispatcher.catalog.event_configs import EventConfigChange, EventInvokeConfig
from dispatcher.operations.call import Call, Request, Response
from dispatcher.operations.naming import key_of, qualified
from dispatcher.operations.registry import operation
from dispatcher.wire.errors import AwsError


def _describe(config: EventInvokeConfig) -> Response:
    return {
        "LastModified": config.last_modified / 1000,
        "FunctionArn": config.key.arn(config.qualifier),
        "MaximumRetryAttempts": config.maximum_retries,
        "MaximumEventAgeInSeconds": config.maximum_age_s,
        "DestinationConfig": {
            "OnSuccess": {"Destination": config.on_success or None},
            "OnFailure": {"Destination": config.on_failure or None},
        },
    }


def _change(request: Request) -> EventConfigChange:
    settings = ("MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig")
    if all(request.get(setting) is None for setting in settings):
        raise AwsError(
            "InvalidParameterValueException",
            "You must specify at least one of error handling or destination setting.",
        )
    destinations = request.get("DestinationConfig") or {}
    return EventConfigChange(
        maximum_age_s=request.get("MaximumEventAgeInSeconds"),
        maximum_retries=request.get("MaximumRetryAttempts"),
        on_success=_arn(destinations.get("OnSuccess")),
        on_failure=_arn(destinations.get("OnFailure")),
    )


def _arn(destination: dict[str, Any] | None) -> str | None:
    """The ARN of a destination; empty for ``{}``, which is how AWS itself shows that there is none."""
    return None if destination is None else destination.get("Destination") or ""


@operation("PutFunctionEventInvokeConfig")
async def put_function_event_invoke_config(call: Call, request: Request) -> Response:
    """Replace the whole configuration of a qualifier."""
    key, qualifier = qualified(call, "PutFunctionEventInvokeConfig", request)
    return _describe(await call.services.catalog.write(event_configs.put, key, qualifier, _change(request)))


@operation("UpdateFunctionEventInvokeConfig")
async def update_function_event_invoke_config(call: Call, request: Request) -> Response:
    """Change the members that the request has."""
    key, qualifier = qualified(call, "UpdateFunctionEventInvokeConfig", request)
    return _describe(await call.services.catalog.write(event_configs.update, key, qualifier, _change(request)))


@operation("GetFunctionEventInvokeConfig")
async def get_function_event_invoke_config(call: Call, request: Request) -> Response:
    """The configuration of one qualifier."""
    key, qualifier = qualified(call, "GetFunctionEventInvokeConfig", request)
    return _describe(await call.services.catalog.read(event_configs.read, key, qualifier))


@operation("DeleteFunctionEventInvokeConfig")
async def delete_function_event_invoke_config(call: Call, request: Request) -> Response:
    """Put a qualifier back to AWS's defaults."""
    key, qualifier = qualified(call, "DeleteFunctionEventInvokeConfig", request)
    await call.services.catalog.write(event_configs.remove, key, qualifier)
    return {}


@operation("ListFunctionEventInvokeConfigs")
async def list_function_event_invoke_configs(call: Call, request: Request) -> Response:
    """The configurations of all the function's qualifiers that have one."""
    key = key_of(call, "ListFunctionEventInvokeConfigs", request["FunctionName"])
    page = await call.services.catalog.read(
        event_configs.list_configs, key, request.get("Marker"), request.get("MaxItems")
    )
    return {
        "FunctionEventInvokeConfigs": [_describe(config) for config in page.items],
        "NextMarker": page.next_marker,
    }
