"""Operations on reserved concurrency, and the account's limits and usage."""

from typing import Final

from dispatcher.catalog import concurrency
from dispatcher.catalog.rows import FunctionKey
from dispatcher.operations.call import Call, Request, Response
from dispatcher.operations.naming import target_of
from dispatcher.operations.registry import operation
from dispatcher.wire.errors import AwsError

#: AWS's quota for all zips of an account in a region: 75 GB. Shown, not enforced: the disk is the caller's own.
_TOTAL_CODE_BYTES: Final = 80_530_636_800


def _unqualified(call: Call, action: str, request: Request) -> FunctionKey:
    key, qualifier = target_of(call, action, request["FunctionName"], None)
    if qualifier is not None:
        raise AwsError(
            "InvalidParameterValueException",
            "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. "
            "Please specify either a function name or an unqualified function ARN.",
        )
    return key


@operation("PutFunctionConcurrency")
async def put_function_concurrency(call: Call, request: Request) -> Response:
    """Reserve concurrency for a function; 0 stops it."""
    key = _unqualified(call, "PutFunctionConcurrency", request)
    settings = call.services.settings
    amount: int = request["ReservedConcurrentExecutions"]
    await call.services.catalog.write(
        concurrency.put, key, amount, settings.concurrent_executions, settings.minimum_unreserved
    )
    return {"ReservedConcurrentExecutions": amount}


@operation("GetFunctionConcurrency")
async def get_function_concurrency(call: Call, request: Request) -> Response:
    """What the function reserves; nothing when it does not."""
    key = _unqualified(call, "GetFunctionConcurrency", request)
    return {"ReservedConcurrentExecutions": await call.services.catalog.read(concurrency.read, key)}


@operation("DeleteFunctionConcurrency")
async def delete_function_concurrency(call: Call, request: Request) -> Response:
    """Put the function back to the account's common concurrency."""
    await call.services.catalog.write(concurrency.clear, _unqualified(call, "DeleteFunctionConcurrency", request))
    return {}


@operation("GetAccountSettings")
async def get_account_settings(call: Call, _request: Request) -> Response:
    """Limits from the settings, usage counted."""
    settings = call.services.settings
    count, size, reserved = await call.services.catalog.read(concurrency.usage, call.account, call.region)
    return {
        "AccountLimit": {
            "TotalCodeSize": _TOTAL_CODE_BYTES,
            "CodeSizeUnzipped": settings.code_unzipped_bytes,
            "CodeSizeZipped": settings.code_zipped_bytes,
            "ConcurrentExecutions": settings.concurrent_executions,
            "UnreservedConcurrentExecutions": settings.concurrent_executions - reserved,
        },
        "AccountUsage": {"TotalCodeSize": size, "FunctionCount": count},
    }
