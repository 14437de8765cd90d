"""What goes through a link: how to start a runtime, events for it, and the ways in which both can end.

How an environment or an invocation ended is a value; only what is the platform's fault is an exception.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

RESPONSE_LIMIT_BYTES: Final = 6_291_556
API_LIMIT_BYTES: Final = 8 * 1024 * 1024


class LinkBroken(Exception):
    """The relay broke the protocol or ended without EXIT: the platform's fault."""


class NotIdle(Exception):
    """``invoke`` on a link that is not idle. Nothing was sent: the event can go to another environment."""


class FunctionIdentity(msgspec.Struct, frozen=True):
    """What the relay tells extensions about the function."""

    name: str
    version: str
    handler: str


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How to start the runtime; members as in FRAMES.md."""

    argv: Sequence[str]
    bootstraps: Sequence[str] = ()
    """Where it is not empty: the first of these that is there is executed, with ``argv`` as its arguments."""
    env: dict[str, str]
    cwd: str
    uid: int | None = None
    gid: int | None = None
    memory_mb: int = 0
    """Limit of the tree's resident set; 0: none. Not enforced by the relay where there are cgroups."""
    memory_cgroup: Sequence[str] = ()
    """Directories of existing cgroups with their limits set; those that are not there are passed over."""
    tmp: str = ""
    """The environment's directory for temporary files, as the relay sees it."""
    tmp_mb: int = 0
    """What may lie there; 0: no limit."""
    response_limit: int = RESPONSE_LIMIT_BYTES
    runtime_api: str = "127.0.0.1:0"
    check_peer_uid: bool = False
    process_limit: int = 0
    """Processes and threads of the runtime's uid on the whole host; 0: no limit. For a uid that nobody else has."""
    worker_socket: str = ""
    """A socket of the worker's to use in the place of stdin and stdout, if it can be reached."""
    function: FunctionIdentity
    api: bool = False
    """Pass requests to the Lambda API on; otherwise the relay answers 403."""
    api_limit: int = API_LIMIT_BYTES
    api_env: Sequence[str] = ()
    """Variables to set to the relay's URL, such as ``AWS_ENDPOINT_URL_LAMBDA``."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One invocation as the runtime sees it; an empty member sets no header."""

    request_id: str
    deadline_ms: int
    invoked_arn: str
    trace_id: str = ""
    client_context: str = ""
    cognito_identity: str = ""
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Started:
    """The runtime asked for its first event."""

    init_ms: float
    """From spawning the process to that request."""
    memory_kb: int


@dataclass(frozen=True, slots=True)
class InitFailed:
    """The runtime posted an initialisation error; usually it exits next."""

    body: bytes
    error_type: str
    memory_kb: int


@dataclass(frozen=True, slots=True)
class Response:
    """The runtime posted a response."""

    payload: bytes
    content_type: str
    streaming: bool
    too_large: bool
    """Over the response limit; the payload is empty then."""
    memory_kb: int
    """Peak of the environment so far."""
    error: str = ""
    """The body broke off: AWS's error type for that (``Runtime.TruncatedResponse``)."""
    error_type: str = ""
    error_body: str = ""
    """A streaming response whose function failed midway, from its trailers (the body in base64)."""


@dataclass(frozen=True, slots=True)
class FunctionError:
    """The runtime posted an error for the invocation."""

    body: bytes
    """The error's document as posted, byte for byte."""
    error_type: str
    too_large: bool
    memory_kb: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The runtime's process ended, or could not be started."""

    exit_code: int | None
    signal: int | None
    oom: bool
    """Killed because the memory limit was passed."""
    init_over: bool
    memory_kb: int
    error: str = ""
    """Why the process could not be started; then there is neither exit code nor signal."""
    disk_full: bool = False
    """Killed because its temporary files took more than their limit."""


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request of the function to the Lambda API."""

    stream: int
    method: str
    target: str
    """Path and query as sent."""
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The function's time was up, and its process tree was killed by the worker."""

    timeout_s: float
    memory_kb: int


StartAnswer = Started | InitFailed | Exited
Answer = Response | FunctionError | Exited
End = Exited | LinkBroken
