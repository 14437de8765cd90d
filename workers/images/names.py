"""The image of each runtime."""

import json
import re
from collections.abc import Mapping
from typing import Final

AWS_REGISTRY: Final = "public.ecr.aws/lambda"

_ODD: Final = {"provided": "provided:alami", "go1.x": "go:1", "nodejs": "nodejs:0.10", "nodejs4.3-edge": "nodejs:4.3"}
#: ``python3.13``, ``nodejs20.x``, ``java8.al2``, ``dotnetcore3.1``, ``provided.al2023``.
_REGULAR: Final = (
    re.compile(r"(?P<name>python|ruby)(?P<tag>\d+\.\d+)"),
    re.compile(r"(?P<name>nodejs)(?P<tag>\d+(\.10)?)(\.x)?"),
    re.compile(r"(?P<name>java)(?P<tag>\d+(\.al2)?)"),
    re.compile(r"(?P<name>dotnet)(?P<tag>\d+)"),
    re.compile(r"(?P<name>dotnet)core(?P<tag>\d+\.\d+)"),
    re.compile(r"(?P<name>provided)\.(?P<tag>al2(023)?)"),
)


def image_of(runtime: str, registry: str = AWS_REGISTRY, mapping: str | Mapping[str, str] | None = None) -> str:
    """The image that runs ``runtime``.

    ``mapping`` comes first: images by runtime, or a pattern in which ``<runtime>`` is replaced; what it does not name
    is AWS's base image of that runtime, below ``registry``. Raises ``ValueError`` for an unknown runtime.
    """
    if isinstance(mapping, str):
        return mapping.replace("<runtime>", runtime)
    if mapping is not None and runtime in mapping:
        return mapping[runtime]
    return f"{registry.rstrip('/')}/{_name(runtime)}"


def read_mapping(text: str) -> str | dict[str, str] | None:
    """What ``LAMBDA_RUNTIME_IMAGE_MAPPING`` says, for :func:`image_of`. Raises ``ValueError`` with what is valid."""
    text = text.strip()
    if not text:
        return None
    if not text.startswith("{"):
        if "<runtime>" in text and not re.search(r"\s", text):
            return text
        raise ValueError('must be a JSON object such as {"python3.13": "IMAGE"}, or a pattern with <runtime>')
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"must be a JSON object, or a pattern with <runtime>; it is no valid JSON: {error}") from None
    for runtime, image in found.items():
        if not isinstance(image, str) or not image:
            raise ValueError(f"{runtime} must be mapped to the name of an image")
    mapping: dict[str, str] = found
    return mapping


def _name(runtime: str) -> str:
    if runtime in _ODD:
        return _ODD[runtime]
    for pattern in _REGULAR:
        found = pattern.fullmatch(runtime)
        if found:
            return f"{found['name']}:{found['tag']}"
    raise ValueError(f"runtime {runtime!r} is not known")
