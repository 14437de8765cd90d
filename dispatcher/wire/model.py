"""botocore's model of the Lambda API, compiled once into what parsing and serialising need.

The source of facts is the file ``lambda/2015-03-31/service-2.json`` inside botocore: routes, shapes, limits, errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final
from urllib.parse import parse_qsl

from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape, StructureShape

API_VERSION: Final = "2015-03-31"
#: DeleteFunction's status is a member of its answer (``statusCode``) with 200 in the traits, and AWS answers 204.
_STATUS: Final = {"DeleteFunction": 204}


@dataclass(frozen=True, slots=True)
class Operation:
    """One API operation: where its input members stand in a request and its output members in a response."""

    name: str
    method: str
    path: tuple[str, ...]
    """Segments of the path; a label is written ``{Member}``."""
    query_flags: tuple[tuple[str, str], ...]
    """Query parameters that belong to the route (``?List=ALL``)."""
    status: int
    input: StructureShape | None
    output: StructureShape | None


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """An error of the model: HTTP status, the name of its message member, and members that travel as headers."""

    name: str
    status: int
    message_member: str
    headers: Mapping[str, str]


@cache
def service() -> ServiceModel:
    """The parsed service model (about 1 MB of JSON, read once per process)."""
    return ServiceModel(Loader().load_service_model("lambda", "service-2", API_VERSION), "lambda")


def location_of(shape: Shape) -> str:
    """``uri``, ``querystring``, ``header``, ``statusCode``, or ``body``."""
    return str(shape.serialization.get("location", "body"))


def wire_name(shape: Shape, member: str) -> str:
    """The member's name on the wire."""
    return str(shape.serialization.get("name", member))


@cache
def operations() -> Mapping[str, Operation]:
    """Every operation of the API by name."""
    return {name: _operation(name) for name in service().operation_names}


def _operation(name: str) -> Operation:
    model = service().operation_model(name)
    path, _, query = str(model.http["requestUri"]).partition("?")
    return Operation(
        name=name,
        method=str(model.http["method"]),
        path=tuple(path.strip("/").split("/")),
        query_flags=tuple(parse_qsl(query)),
        status=_STATUS.get(name, int(model.http.get("responseCode", 200))),
        input=_structure(model.input_shape),
        output=_structure(model.output_shape),
    )


def _structure(shape: Shape | None) -> StructureShape | None:
    return shape if isinstance(shape, StructureShape) else None


@cache
def error_shapes() -> Mapping[str, ErrorShape]:
    """Every error of the model by name."""
    return {shape.name: _error_shape(shape) for shape in service().error_shapes}


def _error_shape(shape: Shape) -> ErrorShape:
    assert isinstance(shape, StructureShape)
    status = int(shape.metadata.get("error", {}).get("httpStatusCode", 400))
    message = next((name for name in shape.members if name.lower() == "message"), "message")
    headers = {
        name: wire_name(member, name).lower()
        for name, member in shape.members.items()
        if location_of(member) == "header"
    }
    return ErrorShape(name=shape.name, status=status, message_member=message, headers=headers)
