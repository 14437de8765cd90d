"""How attempts and events end: the values that settling, its consequences and the settler hand each other."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from dispatcher.clock import Clock
from dispatcher.ledger.deciding import Kind


@dataclass(frozen=True, slots=True)
class Context:
    """What settling needs beside a connection."""

    clock: Clock
    retry_base_s: float
    """The pause before the first retry; the one before the second is twice as long."""
    result_bytes: int
    """How much of a result is kept."""
    ids: Iterator[int]
    """Numbers that no event and no delivery has."""


class Ending(msgspec.Struct, frozen=True, gc=False):
    """How one attempt ended. Times in ms since 1970."""

    request_id: str
    attempt: int
    kind: Kind
    started_ms: int
    ended_ms: int
    worker: str = ""
    environment: str = ""
    version: str = ""
    error_type: str = ""
    error_message: str = ""
    log_tail: bytes = b""
    result: bytes = b""


class Settled(msgspec.Struct, frozen=True, gc=False):
    """What became of an event."""

    request_id: str
    function: str
    lane: str
    kind: Kind | None
    """How the attempt ended; None when there was none."""
    state: str
    condition: str
    has_consequences: bool
    """Whether a delivery or another event was added."""
    invoked: str
    """The function of that other event, which is in the lane ``event``; empty when there is none."""


def error_document(result: bytes) -> tuple[str, str]:
    """``errorType`` and ``errorMessage`` of a function's error; each is empty when the document has none."""
    try:
        found = json.loads(result)
    except (ValueError, RecursionError):
        return "", ""
    words = [found.get(name) if isinstance(found, dict) else None for name in ("errorType", "errorMessage")]
    error_type, message = (word if isinstance(word, str) else "" for word in words)
    return error_type, message


def storable(text: str) -> str:
    """A function's words as a database stores them: PostgreSQL has no NUL in text, and neither database half a character."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
