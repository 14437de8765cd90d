"""What travels between the dispatcher and the worker pools.

A task message is one :class:`Batch`: a :class:`FunctionSpec` and one or more :class:`Invocation` of it, run in series
on one environment. A worker answers each invocation with one :class:`Outcome`. All three are encoded as msgpack maps,
and the version number leads every message: a reader takes :data:`VERSION` and the one before it, and outcomes since
:data:`OLDEST_OUTCOME`.
"""

from typing import Final, Literal, TypeVar

import msgspec

#: Counts the changes of messages, and of the words that stand in Redis beside them. A change of words counts two, because a
#: dispatcher and a worker with different words must not work together: since 3 a claim's state is called ``reserved``.
VERSION: Final = 3
#: The first version whose outcomes can still be read: neither their shape nor their words have changed since. One that waits
#: in the stream while everything is replaced by a newer version tells of work that was done, and must not be done again.
OLDEST_OUTCOME: Final = 1
#: Payloads over this many bytes travel as their own Redis key (see ``keys.payload``).
INLINE_PAYLOAD_BYTES: Final = 64 * 1024
#: Longest start of an environment: its code fetched and unpacked (330 s at most), and the first initialisation.
START_MS: Final = 420_000

Mode = Literal["local", "docker", "docker-reuse"]
Lane = Literal["sync", "event", "replay"]
MODES: Final[tuple[Mode, ...]] = ("local", "docker", "docker-reuse")
LANES: Final[tuple[Lane, ...]] = ("sync", "event", "replay")


class VersionMismatch(Exception):
    """The message was written by an Everwarm too old or too new for this reader: the platform's fault, no try used."""

    def __init__(self, found: int, oldest: int) -> None:
        super().__init__(f"message version {found}; this process reads {oldest} to {VERSION}")
        self.found = found


class FunctionSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The resolved, immutable snapshot of one function version that a worker needs to run it."""

    account: str
    region: str
    function: str
    version: str
    """``$LATEST`` or a published version's number."""
    runtime: str
    handler: str
    timeout_s: int
    memory_mb: int
    ephemeral_mb: int
    environment: dict[str, str]
    """The function's own variables; secrets, so never logged."""
    code_sha256: str
    """Hex SHA-256 of the zip; empty with hot reload."""
    hot_reload_path: str = ""
    """Absolute host directory that is the code (bucket ``hot-reload``); empty otherwise."""
    architecture: str = "x86_64"
    package_type: str = "Zip"
    image_uri: str = ""
    """Name of a container-image function's image, as it was given."""
    image_id: str = ""
    """What that name meant to the container engine when the function was created or updated."""
    entry_point: tuple[str, ...] = ()
    """``ImageConfig``; where it is empty the image's own holds, as for the next two."""
    command: tuple[str, ...] = ()
    working_directory: str = ""
    log_group: str = ""
    revision: str
    """Hash over everything above: environments are shared by it and by nothing else."""

    @property
    def arn(self) -> str:
        """The function's ARN without a qualifier."""
        return f"arn:aws:lambda:{self.region}:{self.account}:function:{self.function}"


class Invocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of a function."""

    request_id: str
    attempt: int = 1
    """The fence: an outcome of an older attempt changes nothing."""
    lane: Lane
    invoked_arn: str
    """With the qualifier that was called."""
    payload: bytes = b""
    payload_key: str = ""
    """Redis key that holds the payload when it is over ``INLINE_PAYLOAD_BYTES``."""
    counted_in: str = ""
    """The concurrency set that holds a place for it."""
    limit: int = -1
    """Events: the claim takes that place, if the set has fewer than this; synchronous calls have theirs (-1)."""
    claim_by_ms: int
    """Unix time in ms after which a claim answers ``late``."""
    reply_to: str
    """Redis list that the outcome is pushed to; ``keys.OUTCOMES``: the stream that the ledger reads."""
    trace_id: str = ""
    client_context: str = ""
    """The decoded JSON document."""
    cognito_identity: str = ""


class Batch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of one task message."""

    v: int
    id: str = ""
    """Names a message of events, so that the feeder sees which worker has it (``keys.message``)."""
    spec: FunctionSpec
    code_url: str = ""
    """Signed URL of the zip at the dispatcher; no part of the revision, since it changes with time."""
    invocations: list[Invocation]


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an attempt ended. A function's failure is an outcome, never an exception."""

    v: int = msgspec.field(default_factory=lambda: VERSION)
    """Made by a factory, so that it is written although it is the default."""
    request_id: str
    attempt: int
    kind: Literal["success", "function_error", "system_error", "throttled", "interrupted"]
    """The last two are of events only: there was no room in its concurrency set, and its worker stopped before its end."""
    payload: bytes = b""
    """What the caller gets as body, for the first two kinds."""
    error_type: str = ""
    """``function_error``: the ``errorType``. ``system_error``: the name of AWS's exception (``ServiceException``)."""
    message: str = ""
    """``system_error`` only: one line for the caller."""
    log_tail: bytes = b""
    """The last 4,096 bytes of the invocation's log, START to REPORT."""
    version: str = "$LATEST"
    """The version that ran (``X-Amz-Executed-Version``)."""
    worker: str = ""
    environment: str = ""
    ended_ms: int = 0
    """Unix time by the worker's clock."""
    duration_ms: float = 0.0
    init_ms: float = 0.0
    """Over 0 only after a cold start."""
    memory_used_mb: int = 0


class Prepare(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message to a worker: have all ready that an invocation of this function would otherwise wait for."""

    v: int = msgspec.field(default_factory=lambda: VERSION)
    spec: FunctionSpec
    code_url: str = ""
    reply_to: str
    """Redis list for one :class:`Prepared` of each worker asked."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the preparation that a :class:`Prepare` asked for ended, on one worker."""

    v: int = msgspec.field(default_factory=lambda: VERSION)
    worker: str
    image_id: str = ""
    """What the function's image is to the worker's container engine; empty in mode local."""
    code: str = ""
    """AWS's StateReasonCode when it failed."""
    reason: str = ""


class _Head(msgspec.Struct):
    v: int


class _RawBatch(msgspec.Struct, frozen=True):
    v: int
    id: str
    spec: msgspec.Raw
    code_url: str
    invocations: list[Invocation]


encode = msgspec.msgpack.Encoder().encode
Message = TypeVar("Message", Batch, Outcome, Prepare, Prepared)
_head = msgspec.msgpack.Decoder(_Head)
_batch = msgspec.msgpack.Decoder(Batch)
_outcome = msgspec.msgpack.Decoder(Outcome)
_prepare = msgspec.msgpack.Decoder(Prepare)
_prepared = msgspec.msgpack.Decoder(Prepared)


def encode_batch(v: int, spec: bytes, code_url: str, invocations: list[Invocation], *, name: str = "") -> bytes:
    """A :class:`Batch` whose FunctionSpec is encoded already: it is the same for every call of a revision."""
    return encode(_RawBatch(v, name, msgspec.Raw(spec), code_url, invocations))


def decode_batch(data: bytes) -> Batch:
    """Read a batch. Raises :class:`VersionMismatch`, or ``msgspec.DecodeError`` when the bytes are no batch."""
    return _decode(_batch, data)


def decode_outcome(data: bytes) -> Outcome:
    """Read an outcome. Raises :class:`VersionMismatch`, or ``msgspec.DecodeError`` when the bytes are no outcome."""
    return _decode(_outcome, data, OLDEST_OUTCOME)


def decode_prepare(data: bytes) -> Prepare:
    """Read a request to prepare a function. Raises as :func:`decode_batch`."""
    return _decode(_prepare, data)


def decode_prepared(data: bytes) -> Prepared:
    """Read the answer to such a request. Raises as :func:`decode_batch`."""
    return _decode(_prepared, data)


def _decode(decoder: msgspec.msgpack.Decoder[Message], data: bytes, oldest: int = VERSION - 1) -> Message:
    try:
        message = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _check(_version(data), oldest)  # One that is too new may have any other shape.
        raise msgspec.DecodeError(str(error)) from error
    _check(message.v, oldest)
    return message


def _version(data: bytes) -> int:
    try:
        return _head.decode(data).v
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def _check(found: int, oldest: int) -> None:
    if not oldest <= found <= VERSION:
        raise VersionMismatch(found, oldest)
