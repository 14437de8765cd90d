"""The environment variables of a function's process (AWS, "Defined runtime environment variables")."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from workers.contract.messages import FunctionSpec
from workers.contract.variables import RESERVED
from workers.runtimes.commands import SYSTEM_PATH, Command


def credentials(spec: FunctionSpec) -> dict[str, str]:
    """Credentials for this server's own Lambda API, good for nothing else.

    They are the same for all functions of an account: a caller is known by the environment that its call comes from.
    """
    return {
        "AWS_ACCESS_KEY_ID": spec.account,
        "AWS_SECRET_ACCESS_KEY": "everwarm",
        "AWS_SESSION_TOKEN": "everwarm",
    }


def standard(spec: FunctionSpec, log_stream: str) -> dict[str, str]:
    """The variables that do not depend on how the runtime is started."""
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
    """The log stream's name in AWS's form: date, version in brackets, 32 hexadecimal digits."""
    return f"{datetime.now(UTC):%Y/%m/%d}/[{version}]{environment}"


def process_environment(
    spec: FunctionSpec,
    command: Command,
    code_dir: Path,
    *,
    log_stream: str,
    credentials: Mapping[str, str],
) -> dict[str, str]:
    """All variables of a function's process but ``AWS_LAMBDA_RUNTIME_API``, ``HOME`` and ``TMPDIR``.

    AWS's standard variables, then ``credentials`` (``AWS_ACCESS_KEY_ID``, …), then the function's own, which override
    all but :data:`RESERVED`. Nothing of the worker's environment is in it.
    """
    task_root = str(code_dir)
    result = {
        "PATH": SYSTEM_PATH,
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "LD_LIBRARY_PATH": f"{task_root}:{task_root}/lib:/opt/lib",
        **credentials,
        **standard(spec, log_stream),
        "_HANDLER": spec.handler,
        "LAMBDA_TASK_ROOT": task_root,
        **command.environment,
    }
    result.update((name, value) for name, value in spec.environment.items() if name not in RESERVED)
    return result
