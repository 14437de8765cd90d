"""Operations on aliases."""

from typing import Any

from dispatcher.catalog import aliases
from dispatcher.catalog.aliases import AliasChange
from dispatcher.catalog.rows import Alias, version_name
from dispatcher.operations.call import Call, Request, Response
from dispatcher.operations.naming import key_of
from dispatcher.operations.registry import operation


def _describe(alias: Alias) -> Response:
    routing: dict[str, Any] | None = None
    if alias.additional_version is not None:
        routing = {"AdditionalVersionWeights": {version_name(alias.additional_version): alias.additional_weight}}
    return {
        "AliasArn": alias.key.arn(alias.name),
        "Name": alias.name,
        "FunctionVersion": version_name(alias.version),
        "Description": alias.description,
        "RoutingConfig": routing,
        "RevisionId": alias.revision_id,
    }


def _weights(request: Request) -> dict[str, float] | None:
    routing = request.get("RoutingConfig")
    return None if routing is None else dict(routing.get("AdditionalVersionWeights") or {})


@operation("CreateAlias")
async def create_alias(call: Call, request: Request) -> Response:
    """A name for a version."""
    key = key_of(call, "CreateAlias", request["FunctionName"])
    alias = await call.services.catalog.write(
        aliases.create,
        key,
        request["Name"],
        request["FunctionVersion"],
        request.get("Description") or "",
        _weights(request) or {},
    )
    return _describe(alias)


@operation("GetAlias")
async def get_alias(call: Call, request: Request) -> Response:
    """One alias."""
    key = key_of(call, "GetAlias", request["FunctionName"])
    return _describe(await call.services.catalog.read(aliases.read, key, request["Name"]))


@operation("UpdateAlias")
async def update_alias(call: Call, request: Request) -> Response:
    """Change the members that the request has."""
    key = key_of(call, "UpdateAlias", request["FunctionName"])
    wanted = AliasChange(request.get("FunctionVersion"), request.get("Description"), _weights(request))
    alias = await call.services.catalog.write(aliases.change, key, request["Name"], request.get("RevisionId"), wanted)
    return _describe(alias)


@operation("DeleteAlias")
async def delete_alias(call: Call, request: Request) -> Response:
    """The alias and its policy; the versions stay."""
    key = key_of(call, "DeleteAlias", request["FunctionName"])
    await call.services.catalog.write(aliases.remove, key, request["Name"])
    return {}


@operation("ListAliases")
async def list_aliases(call: Call, request: Request) -> Response:
    """The function's aliases, all or those of one version."""
    key = key_of(call, "ListAliases", request["FunctionName"])
    page = await call.services.catalog.read(
        aliases.list_aliases, key, request.get("FunctionVersion"), request.get("Marker"), request.get("MaxItems")
    )
    return {"Aliases": [_describe(alias) for alias in page.items], "NextMarker": page.next_marker}
