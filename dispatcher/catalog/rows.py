"""The rows of the catalog's tables as values."""

import base64
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Row

from dispatcher.wire.arn import LATEST, function_arn

#: AWS's words for the time between an accepted request and a function that can be called.
CREATING: Final = ("Creating", "The function is being created.")
#: The tag that picks the mode of a function.
MODE_TAG: Final = "everwarm:mode"

_encode = msgspec.json.Encoder(order="deterministic").encode


class FunctionKey(NamedTuple):
    """Account, region and name, which together name a function."""

    account: str
    region: str
    name: str

    def arn(self, qualifier: str | None = None) -> str:
        """The ARN, with the qualifier when there is one."""
        return function_arn(self.account, self.region, self.name, qualifier)


@dataclass(frozen=True, slots=True)
class Code:
    """Where a version's code is: exactly one of a zip, a directory of the host, and an image."""

    sha256: str = ""
    """Hex SHA-256 of the zip, of the directory's path, or of the image's name."""
    size: int = 0
    hot_reload_path: str = ""
    image_uri: str = ""

    @property
    def api_sha256(self) -> str:
        """``CodeSha256`` as the API writes it: base64, but hex for images."""
        return self.sha256 if self.image_uri else base64.b64encode(bytes.fromhex(self.sha256)).decode()


@dataclass(frozen=True, slots=True)
class Function:
    """A row of ``functions``."""

    id: int
    key: FunctionKey
    next_version: int
    reserved_concurrency: int | None


@dataclass(frozen=True, slots=True)
class Version:
    """A row of ``versions`` with the key of its function."""

    key: FunctionKey
    function_id: int
    number: int
    config: dict[str, Any]
    """The configuration under the API's member names, defaults filled in; what the API derives is not in it."""
    fingerprint: str
    code: Code
    revision_id: str
    last_modified: str
    state: str
    state_reason_code: str | None
    state_reason: str | None
    update_status: str | None
    update_reason_code: str | None
    update_reason: str | None

    @property
    def name(self) -> str:
        """``$LATEST`` or the number."""
        return version_name(self.number)


@dataclass(frozen=True, slots=True)
class Alias:
    """A row of ``aliases``."""

    key: FunctionKey
    name: str
    version: int
    additional_version: int | None
    additional_weight: float | None
    description: str
    revision_id: str


def version_name(number: int) -> str:
    """``$LATEST`` for 0, else the number."""
    return str(number) if number else LATEST


def version_number(name: str) -> int:
    """The inverse of :func:`version_name`."""
    return 0 if name == LATEST else int(name)


def is_version(qualifier: str) -> bool:
    """Whether a qualifier names a version (an alias's name is never only digits)."""
    return qualifier == LATEST or (qualifier.isascii() and qualifier.isdecimal())


def new_revision() -> str:
    """A fresh RevisionId."""
    return str(uuid.uuid4())


def timestamp(now: datetime | None = None) -> str:
    """``LastModified`` as the API writes it: ``2026-01-31T12:00:00.000+0000``."""
    now = now or datetime.now(UTC)
    return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}+0000"


def encode(document: Any) -> str:
    """JSON with sorted keys, so that equal documents are equal texts."""
    return _encode(document).decode()


def decode(text: str) -> Any:
    """The inverse of :func:`encode`."""
    return msgspec.json.decode(text)


def function_from(row: Row[Any]) -> Function:
    """A row selected from ``functions``."""
    key = FunctionKey(row.account, row.region, row.name)
    return Function(id=row.id, key=key, next_version=row.next_version, reserved_concurrency=row.reserved_concurrency)


def version_from(row: Row[Any], key: FunctionKey) -> Version:
    """A row selected from ``versions``."""
    return Version(
        key=key,
        function_id=row.function_id,
        number=row.number,
        config=decode(row.config),
        fingerprint=row.fingerprint,
        code=Code(
            sha256=row.code_sha256, size=row.code_size, hot_reload_path=row.hot_reload_path, image_uri=row.image_uri
        ),
        revision_id=row.revision_id,
        last_modified=row.last_modified,
        state=row.state,
        state_reason_code=row.state_reason_code,
        state_reason=row.state_reason,
        update_status=row.update_status,
        update_reason_code=row.update_reason_code,
        update_reason=row.update_reason,
    )


def alias_from(row: Row[Any], key: FunctionKey) -> Alias:
    """A row selected from ``aliases``."""
    return Alias(
        key=key,
        name=row.name,
        version=row.version,
        additional_version=row.additional_version,
        additional_weight=row.additional_weight,
        description=row.description,
        revision_id=row.revision_id,
    )
