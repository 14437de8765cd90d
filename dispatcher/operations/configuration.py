"""A function's configuration: from a request to what the catalog keeps, and from there to AWS's answer.

The catalog keeps a dict under the API's member names with the defaults filled in. Sources of the rules: AWS's API
reference and quotas page, and answers of AWS recorded for create, update and get.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from dispatcher.catalog.event_configs import service_of
from dispatcher.catalog.rows import Version
from dispatcher.settings import DispatcherSettings
from dispatcher.wire.arn import partition_of
from dispatcher.wire.errors import AwsError
from workers.contract.variables import RESERVED

Config = dict[str, Any]

_MAX_TIMEOUT_S: Final = 900
_MAX_MEMORY_MB: Final = 10_240
_MAX_EPHEMERAL_MB: Final = 10_240
_MAX_LAYERS: Final = 5
#: Runtimes with SnapStart, which is accepted and shown, and changes nothing here.
_SNAP_START: Final = frozenset(
    {"java11", "java17", "java21", "java25", "python3.12", "python3.13", "python3.14", "dotnet8", "dotnet10"}
)
_NOT_BUILT: Final = ("CapacityProviderConfig", "TenancyConfig", "DurableConfig", "AcceleratorConfig", "PublishTo")
#: Members of an answer that lists leave out.
_NOT_LISTED: Final = (
    "State",
    "StateReason",
    "StateReasonCode",
    "LastUpdateStatus",
    "LastUpdateStatusReason",
    "LastUpdateStatusReasonCode",
    "RuntimeVersionConfig",
)


# --- from a request to what is kept ---


def new_config(request: Mapping[str, Any], name: str, settings: DispatcherSettings) -> Config:
    """The configuration that CreateFunction asks for, with AWS's defaults."""
    defaults: Config = {
        "Description": "",
        "Timeout": 3,
        "MemorySize": 128,
        "PackageType": "Zip",
        "Architectures": ["x86_64"],
        "EphemeralStorage": {"Size": 512},
        "TracingConfig": {"Mode": "PassThrough"},
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{name}"},
    }
    kept = ("PackageType", "Architectures")
    config = {**defaults, **{member: request[member] for member in kept if request.get(member) is not None}}
    config = changed_config(config, request, settings)
    _check_package(config)
    return config


def refuse_unknown(request: Mapping[str, Any]) -> None:
    """What would change how a function runs, and is not built, is refused rather than ignored."""
    for member in _NOT_BUILT:
        if request.get(member):
            raise _invalid(f"Everwarm does not have {member} yet.")
    if arn := request.get("CodeSigningConfigArn"):
        raise AwsError(
            "CodeSigningConfigNotFoundException",
            "The code signing configuration cannot be found. "
            f"Check that the provided configuration is not deleted: {arn}.",
        )


def changed_config(config: Config, request: Mapping[str, Any], settings: DispatcherSettings) -> Config:
    """``config`` with what the request sets; members that the request leaves out stay."""
    refuse_unknown(request)
    _check_limits(request)
    result = dict(config)
    for member, apply in _CHANGES.items():
        if request.get(member) is not None:
            apply(result, member, request[member])
    if "SnapStart" in request:
        _check_snap_start(result)
    _check_environment((request.get("Environment") or {}).get("Variables") or {}, settings.environment_bytes)
    return result


def _set(config: Config, member: str, value: Any) -> None:
    config[member] = value


def _set_or_drop(config: Config, member: str, value: Any) -> None:
    """Empty values take the member away."""
    if value in ("", [], {}):
        config.pop(member, None)
    else:
        config[member] = value


def _set_dead_letter(config: Config, member: str, value: Any) -> None:
    """An empty ARN takes the queue away. AWS's wording, but that of ARNs that are malformed in other ways."""
    arn = value.get("TargetArn")
    if arn and service_of(arn) not in ("sqs", "sns"):
        service, resource = arn.split(":")[2], arn.rsplit(":", 1)[1]
        if service not in ("sqs", "sns"):
            reason = "The service specified by the TargetArn is not supported for dead letter configuration."
        elif resource.endswith(".fifo"):
            kind = "SQS queue" if service == "sqs" else "SNS topic"
            reason = f"FIFO {kind} is not supported for dead letter configuration"
        else:
            reason = f"{arn} names no queue and no topic"
        raise _invalid(f"Invalid dead letter queue ARN: {reason}")
    _set_or_drop(config, member, {"TargetArn": arn} if arn else {})


def _set_environment(config: Config, member: str, value: Any) -> None:
    config[member] = {"Variables": dict(value.get("Variables") or {})}


def _set_layers(config: Config, member: str, value: Any) -> None:
    if len(value) > _MAX_LAYERS:
        raise _invalid("Cannot reference more than 5 layers.")
    layers = [arn.rsplit(":", 1)[0] for arn in value]
    for position, layer in enumerate(layers):
        if layer in layers[:position]:
            other = value[layers.index(layer)]
            raise _invalid(
                "Two different versions of the same layer are not allowed to be referenced in the same function. "
                f"{other} and {value[position]} are versions of the same layer."
            )
    _set_or_drop(config, member, value)


def _set_vpc(config: Config, member: str, value: Any) -> None:
    config[member] = {
        "SubnetIds": value.get("SubnetIds") or [],
        "SecurityGroupIds": value.get("SecurityGroupIds") or [],
        "VpcId": "",
        "Ipv6AllowedForDualStack": bool(value.get("Ipv6AllowedForDualStack")),
    }


def _set_snap_start(config: Config, member: str, value: Any) -> None:
    config[member] = {"ApplyOn": value.get("ApplyOn", "None"), "OptimizationStatus": "Off"}


def _set_tracing(config: Config, member: str, value: Any) -> None:
    config[member] = {"Mode": value.get("Mode", config[member]["Mode"])}


def _set_logging(config: Config, member: str, value: Any) -> None:
    """JSON has log levels, Text has none; the log group stays unless it is given."""
    merged = {**config[member], **value}
    if merged["LogFormat"] == "JSON":
        config[member] = {"ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO", **merged}
    else:
        config[member] = {name: merged[name] for name in ("LogFormat", "LogGroup")}


_CHANGES: Final[Mapping[str, Callable[[Config, str, Any], None]]] = {
    "Role": _set,
    "Handler": _set,
    "Runtime": _set,
    "Description": _set,
    "Timeout": _set,
    "MemorySize": _set,
    "EphemeralStorage": _set,
    "TracingConfig": _set_tracing,
    "SnapStart": _set_snap_start,
    "LoggingConfig": _set_logging,
    "Environment": _set_environment,
    "VpcConfig": _set_vpc,
    "DeadLetterConfig": _set_dead_letter,
    "KMSKeyArn": _set_or_drop,
    "Layers": _set_layers,
    "FileSystemConfigs": _set_or_drop,
    "ImageConfig": _set_or_drop,
}


def _check_package(config: Config) -> None:
    if config["PackageType"] == "Image":
        if config.get("Runtime") or config.get("Handler"):
            raise _invalid("Runtime and Handler must not be specified for functions created with container images.")
        if config.get("Layers"):
            raise _invalid("Layers are not supported for functions created with container images.")
    elif not config.get("Runtime") or not config.get("Handler"):
        raise _invalid("Runtime and Handler are mandatory parameters for functions created with deployment packages.")


def _check_snap_start(config: Config) -> None:
    runtime = config.get("Runtime")
    if config["SnapStart"]["ApplyOn"] != "None" and runtime not in _SNAP_START:
        raise _invalid(f"{runtime} is not supported for SnapStart enabled functions.")


def _check_limits(request: Mapping[str, Any]) -> None:
    """The limits of ordinary functions; the model's are those of managed instances, and wider."""
    size = (request.get("EphemeralStorage") or {}).get("Size")
    limits = (
        ("timeout", request.get("Timeout"), _MAX_TIMEOUT_S),
        ("memorySize", request.get("MemorySize"), _MAX_MEMORY_MB),
        ("ephemeralStorage.size", size, _MAX_EPHEMERAL_MB),
    )
    found = [
        f"Value '{value}' at '{member}' failed to satisfy constraint: Member must have value less than or equal to {limit}"
        for member, value, limit in limits
        if value is not None and value > limit
    ]
    if found:
        plural = "s" if len(found) > 1 else ""
        raise AwsError("ValidationException", f"{len(found)} validation error{plural} detected: {'; '.join(found)}")


def _check_environment(variables: Mapping[str, str], limit: int) -> None:
    reserved = sorted(RESERVED & variables.keys())
    if reserved:
        raise _invalid(
            "Lambda was unable to configure your environment variables because the environment variables you have "
            "provided contains reserved keys that are currently not supported for modification. "
            f"Reserved keys used in this request: {', '.join(reserved)}"
        )
    measured = msgspec.json.encode(variables)
    if len(measured) > limit:
        raise _invalid(
            "Lambda was unable to configure your environment variables because the environment variables you have "
            f"provided exceeded the 4KB limit. String measured: {measured.decode()}"
        )


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterValueException", message)


# --- from what is kept to an answer ---


def describe(version: Version, *, arn: str, status: bool = True) -> dict[str, Any]:
    """``FunctionConfiguration``. ``arn`` is the function's as the operation shows it; ``status``: with the update's status."""
    answer = {
        **version.config,
        "FunctionName": version.key.name,
        "FunctionArn": arn,
        "Version": version.name,
        "CodeSha256": version.code.api_sha256,
        "CodeSize": version.code.size,
        "LastModified": version.last_modified,
        "RevisionId": version.revision_id,
        "State": version.state,
        "StateReason": version.state_reason,
        "StateReasonCode": version.state_reason_code,
    }
    if status and version.state != "Pending":
        answer["LastUpdateStatus"] = version.update_status
        answer["LastUpdateStatusReason"] = version.update_reason
        answer["LastUpdateStatusReasonCode"] = version.update_reason_code
    _describe_package(answer, version)
    return {member: value for member, value in answer.items() if value is not None}


def _describe_package(answer: dict[str, Any], version: Version) -> None:
    if version.code.image_uri:
        if image_config := answer.pop("ImageConfig", None):
            answer["ImageConfigResponse"] = {"ImageConfig": image_config}
    else:
        answer["RuntimeVersionConfig"] = {"RuntimeVersionArn": _runtime_version_arn(version)}
    if layers := version.config.get("Layers"):
        answer["Layers"] = [{"Arn": arn, "CodeSize": 0} for arn in layers]


def _runtime_version_arn(version: Version) -> str:
    region, runtime = version.key.region, version.config.get("Runtime", "")
    digest = hashlib.sha256(runtime.encode()).hexdigest()
    return f"arn:{partition_of(region)}:lambda:{region}::runtime:{digest}"


def listed(version: Version, *, qualified: bool) -> dict[str, Any]:
    """``FunctionConfiguration`` as in ListFunctions and ListVersionsByFunction."""
    answer = describe(version, arn=version.key.arn(version.name if qualified else None))
    return {member: value for member, value in answer.items() if member not in _NOT_LISTED}
