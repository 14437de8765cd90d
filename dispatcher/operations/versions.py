"""Operations on versions."""

from dispatcher.catalog import functions
from dispatcher.operations.call import Call, Request, Response
from dispatcher.operations.configuration import describe, listed
from dispatcher.operations.naming import key_of
from dispatcher.operations.registry import operation


@operation("PublishVersion")
async def publish_version(call: Call, request: Request) -> Response:
    """Freeze ``$LATEST`` as the next version; the last one again when nothing changed since."""
    key = key_of(call, "PublishVersion", request["FunctionName"])
    version = await call.services.catalog.write(
        functions.publish, key, request.get("CodeSha256"), request.get("RevisionId"), request.get("Description")
    )
    return describe(version, arn=key.arn(version.name))


@operation("ListVersionsByFunction")
async def list_versions_by_function(call: Call, request: Request) -> Response:
    """``$LATEST`` and the published versions."""
    key = key_of(call, "ListVersionsByFunction", request["FunctionName"])
    page = await call.services.catalog.read(
        functions.list_versions, key, request.get("Marker"), request.get("MaxItems")
    )
    return {"Versions": [listed(version, qualified=True) for version in page.items], "NextMarker": page.next_marker}
