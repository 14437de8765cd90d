"""The environment variables that every mode gives to a function's process (AWS, "Defined runtime environment variables")."""

from datetime import UTC, datetime

from workers.contract.messages import FunctionSpec


def credentials(spec: FunctionSpec) -> dict[str, str]:
    """Good for this server's own Lambda API, which takes the environment for the identity, and for nothing else."""
    return {
        "AWS_ACCESS_KEY_ID": spec.account,
        "AWS_SECRET_ACCESS_KEY": "everwarm",
        "AWS_SESSION_TOKEN": "everwarm",
    }


def standard(spec: FunctionSpec, log_stream: str) -> dict[str, str]:
    """Those that do not depend on how the runtime is started."""
    return {
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "AWS_DEFAULT_REGION": spec.region,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(spec.memory_mb),
        "AWS_LAMBDA_FUNCTION_NAME": spec.function,
        "AWS_LAMBDA_FUNCTION_VERSION": spec.version,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": spec.log_group or f"/aws/lambda/{spec.function}",
        "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
        "AWS_REGION": spec.region,
    }


def log_stream(version: str, environment: str) -> str:
    """AWS's form: date, version in brackets, 32 hexadecimal digits."""
    return f"{datetime.now(UTC):%Y/%m/%d}/[{version}]{environment}"
