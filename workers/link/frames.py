"""The frames between a worker and a relay: encoding, and decoding of a stream that arrives in any pieces.

``workers/relay/FRAMES.md`` defines them; the numbers here repeat it, and a test compares.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final

HEADER_BYTES: Final = 9
MAX_PAYLOAD: Final = 262_144
WINDOW: Final = 1_048_576

START: Final = 0x01
EVENT: Final = 0x02
KILL: Final = 0x03
API_RESPONSE: Final = 0x04
PING: Final = 0x05
DATA: Final = 0x10
END: Final = 0x11
STARTED: Final = 0x21
NEXT: Final = 0x22
RESPONSE: Final = 0x23
ERROR: Final = 0x24
INIT_ERROR: Final = 0x25
LOG: Final = 0x26
EXIT: Final = 0x27
API_REQUEST: Final = 0x28
CREDIT: Final = 0x29
PONG: Final = 0x2A

type_names: Final = {
    START: "START",
    EVENT: "EVENT",
    KILL: "KILL",
    API_RESPONSE: "API_RESPONSE",
    PING: "PING",
    DATA: "DATA",
    END: "END",
    STARTED: "STARTED",
    NEXT: "NEXT",
    RESPONSE: "RESPONSE",
    ERROR: "ERROR",
    INIT_ERROR: "INIT_ERROR",
    LOG: "LOG",
    EXIT: "EXIT",
    API_REQUEST: "API_REQUEST",
    CREDIT: "CREDIT",
    PONG: "PONG",
}
"""Type number to the name in FRAMES.md."""

Buffer = bytes | bytearray | memoryview
Frame = tuple[int, int, bytes]
"""Type, stream and payload."""

_header: Final = Struct("!IBI")
_TYPE_AND_STREAM: Final = HEADER_BYTES - 4


class FrameError(Exception):
    """The bytes are no frames, or frames that must not come now: the stream can't be used any more."""


def encode(kind: int, payload: bytes = b"", stream: int = 0) -> bytes:
    """One frame in one piece. Raises :class:`FrameError` for a payload over :data:`MAX_PAYLOAD`."""
    if len(payload) > MAX_PAYLOAD:
        raise FrameError(f"a payload of {len(payload)} bytes, over {MAX_PAYLOAD}")
    return _header.pack(len(payload) + _TYPE_AND_STREAM, kind, stream) + payload


def encode_data(body: memoryview, stream: int = 0) -> Iterator[Buffer]:
    """DATA frames for a whole body, as headers and slices of it: nothing is copied. Empty for an empty body."""
    for start in range(0, len(body), MAX_PAYLOAD):
        part = body[start : start + MAX_PAYLOAD]
        yield _header.pack(len(part) + _TYPE_AND_STREAM, DATA, stream)
        yield part


class Decoder:
    """Takes a stream in pieces of any size and gives its frames; keeps less than one frame between two pieces."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes, in order. Raises :class:`FrameError`; then the decoder is spent."""
        if not self._rest:
            frames, used = _split(data)
            if used < len(data):
                self._rest += memoryview(data)[used:]
            return frames
        self._rest += data
        frames, used = _split(self._rest)
        del self._rest[:used]
        return frames

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame."""
        return len(self._rest)


def _split(data: bytes | bytearray) -> tuple[list[Frame], int]:
    """The whole frames at the start of ``data``, and how many bytes they take."""
    frames: list[Frame] = []
    at = 0
    with memoryview(data) as view:
        while len(data) - at >= HEADER_BYTES:
            length, kind, stream = _header.unpack_from(data, at)
            size = length - _TYPE_AND_STREAM
            if not 0 <= size <= MAX_PAYLOAD:
                raise FrameError(f"a frame of length {length}")
            end = at + HEADER_BYTES + size
            if end > len(data):
                break
            frames.append((kind, stream, bytes(view[at + HEADER_BYTES : end])))
            at = end
    return frames, at
