"""Where the code of CreateFunction and UpdateFunctionCode comes from."""

import hashlib
from collections.abc import Mapping
from typing import Any

from dispatcher.catalog.rows import Code
from dispatcher.operations import Call
from dispatcher.wire.errors import AwsError


async def take_code(call: Call, source: Mapping[str, Any], package_type: str) -> Code:
    """The code that ``source`` (a ``FunctionCode``, or UpdateFunctionCode's request) names; a zip is kept."""
    zip_file: bytes | None = source.get("ZipFile")
    bucket, key, image = source.get("S3Bucket"), source.get("S3Key"), source.get("ImageUri")
    if package_type == "Image":
        return _image(image, other=bool(zip_file or bucket))
    if image:
        raise _invalid("Please don't provide ImageUri when creating or updating a function with packageType Zip.")
    if zip_file is not None:
        if bucket or key:
            raise _invalid("Please do not provide other FunctionCode parameters when providing a ZipFile.")
        stored = await call.services.code.put(zip_file)
        return Code(sha256=stored.sha256, size=stored.size)
    raise _invalid("Please provide a source for function code.")


def _image(uri: str | None, *, other: bool) -> Code:
    if not uri or other:
        raise _invalid("Please provide ImageUri when creating a function with packageType Image.")
    return Code(sha256=hashlib.sha256(uri.encode()).hexdigest(), image_uri=uri)


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterValueException", message)
