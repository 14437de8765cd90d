"""Operations on functions: create, get, list, update, delete."""

from typing import Any, Final

from dispatcher.catalog import functions, lookups
from dispatcher.catalog.functions import Draft
from dispatcher.catalog.rows import FunctionKey, Version
from dispatcher.operations.call import Call, Request, Response
from dispatcher.operations.configuration import changed_config, describe, listed, new_config
from dispatcher.operations.naming import key_of, qualified
from dispatcher.operations.registry import operation
from dispatcher.operations.sources import take_code
from dispatcher.operations.tagging import check_tags
from dispatcher.wire.arn import LATEST
from dispatcher.wire.errors import AwsError

_MAX_NAME: Final = 64


@operation("CreateFunction")
async def create_function(call: Call, request: Request) -> Response:
    """A new function, Pending; with ``LAMBDA_SYNCHRONOUS_CREATE`` Active."""
    key = _new_key(call, request["FunctionName"])
    config = new_config(request, key.name, call.services.settings)
    check_tags(request.get("Tags") or {})
    code = await take_code(call, request["Code"], config["PackageType"])
    draft = Draft(config, code, request.get("Tags") or {}, publish=bool(request.get("Publish")))
    catalog = call.services.catalog
    version = await catalog.write(functions.create, key, draft)
    ready = catalog.activate(key)
    if call.services.settings.synchronous_create:
        await ready
        _, version = await catalog.read(lookups.get_qualified, key, version.name)
    return describe(version, arn=key.arn(), status=False)


def _new_key(call: Call, text: str) -> FunctionKey:
    key, qualifier = qualified(call, "CreateFunction", {"FunctionName": text})
    if qualifier is not None:
        raise AwsError(
            "ValidationException",
            f"1 validation error detected: Value '{text}' at 'functionName' failed to satisfy constraint: Member must "
            "satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?"
            "-[a-z]+-\\d{1}:)?(\\d{12}:)?(function:)?([a-zA-Z0-9-_]+)",
        )
    if len(key.name) > _MAX_NAME:
        raise AwsError(
            "InvalidParameterValueException",
            f"1 validation error detected: Value '{key.name}' at 'functionName' failed to satisfy constraint: "
            f"Member must have length less than or equal to {_MAX_NAME}",
        )
    return key


@operation("GetFunction")
async def get_function(call: Call, request: Request) -> Response:
    """Configuration, where the code is, tags and reserved concurrency."""
    key, qualifier = qualified(call, "GetFunction", request)
    version, found_tags, reserved = await call.services.catalog.read(functions.get_whole, key, qualifier)
    return {
        "Configuration": describe(version, arn=key.arn(qualifier)),
        "Code": _location(call, version),
        "Tags": found_tags or None,
        "Concurrency": {"ReservedConcurrentExecutions": reserved} if reserved is not None else None,
    }


def _location(call: Call, version: Version) -> dict[str, Any]:
    code = version.code
    if code.image_uri:
        return {"RepositoryType": "ECR", "ImageUri": code.image_uri, "ResolvedImageUri": code.image_uri}
    if code.hot_reload_path:
        return {"RepositoryType": "hot-reload", "Location": f"file://{code.hot_reload_path}"}
    location = call.services.settings.endpoint + call.services.code.signed_path(code.sha256)
    return {"RepositoryType": "S3", "Location": location}


@operation("GetFunctionConfiguration")
async def get_function_configuration(call: Call, request: Request) -> Response:
    """Configuration of the version that the qualifier names."""
    key, qualifier = qualified(call, "GetFunctionConfiguration", request)
    _, version = await call.services.catalog.read(lookups.get_qualified, key, qualifier)
    return describe(version, arn=key.arn(qualifier))


@operation("ListFunctions")
async def list_functions(call: Call, request: Request) -> Response:
    """The account's functions in the region, or with ``FunctionVersion=ALL`` all their versions."""
    every = request.get("FunctionVersion") == "ALL"
    page = await call.services.catalog.read(
        functions.list_functions,
        call.account,
        call.region,
        request.get("Marker"),
        request.get("MaxItems"),
        all_versions=every,
    )
    return {"Functions": [listed(version, qualified=every) for version in page.items], "NextMarker": page.next_marker}


@operation("UpdateFunctionCode")
async def update_function_code(call: Call, request: Request) -> Response:
    """New code for ``$LATEST``; with ``Publish`` also a version from it; with ``DryRun`` only the checks."""
    key = key_of(call, "UpdateFunctionCode", request["FunctionName"])
    catalog = call.services.catalog
    _, latest = await catalog.read(lookups.get_qualified, key, None)
    functions.check_revision(request.get("RevisionId"), latest.revision_id)
    publish, dry_run = bool(request.get("Publish")), bool(request.get("DryRun"))
    code = await take_code(call, request, latest.config["PackageType"], keep=not dry_run)
    version = await catalog.write(
        functions.update_code,
        key,
        request.get("RevisionId"),
        code,
        request.get("Architectures"),
        publish=publish,
        dry_run=dry_run,
    )
    if not dry_run:
        catalog.activate(key)
        await _supersede(call, key)
    return describe(version, arn=key.arn(version.name if publish and not dry_run else None))


@operation("UpdateFunctionConfiguration")
async def update_function_configuration(call: Call, request: Request) -> Response:
    """Change the members that the request has; the others stay."""
    key = key_of(call, "UpdateFunctionConfiguration", request["FunctionName"])
    settings = call.services.settings
    version = await call.services.catalog.write(
        functions.update_configuration,
        key,
        request.get("RevisionId"),
        lambda latest: changed_config(latest.config, request, settings),
    )
    call.services.catalog.activate(key)
    await _supersede(call, key)
    return describe(version, arn=key.arn())


async def _supersede(call: Call, key: FunctionKey) -> None:
    """Have environments retired that idle with ``$LATEST`` as it was."""
    target = await call.services.catalog.resolve(key.account, key.region, key.name)
    await call.services.fleet.supersede(f"{key.account}:{key.region}:{key.name}", LATEST, target.spec.revision)


@operation("DeleteFunction")
async def delete_function(call: Call, request: Request) -> Response:
    """The whole function, or with a qualifier one version. Running invocations finish."""
    key, qualifier = qualified(call, "DeleteFunction", request)
    catalog = call.services.catalog
    if qualifier is None:
        await catalog.write(functions.delete_function, key)
    else:
        await catalog.write(functions.delete_version, key, qualifier)
    await call.services.fleet.supersede(f"{key.account}:{key.region}:{key.name}", qualifier or "*", "")
    return {"StatusCode": 204}
