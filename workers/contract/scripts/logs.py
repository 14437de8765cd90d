"""The script that keeps functions' logs until the dispatcher has stored them."""

from collections.abc import Callable
from typing import Final, Literal, get_args

from workers.contract import keys
from workers.contract.scripts.call import Call, one_of
from workers.contract.scripts.loader import load

Append = Literal["kept", "full"]

_APPEND: Final = load("append_log")
_decode_append: Final[Callable[[bytes], Append]] = one_of(get_args(Append))


def append(stream: str, chunk: bytes, *, most_chunks: int, life_ms: int, drop_oldest: bool) -> Call[Append]:
    """Keep one chunk in a function's stream (``keys.log``), which lives for ``life_ms`` after its last chunk.

    ``drop_oldest``: make room in a stream that has ``most_chunks``, instead of answering ``full``.
    """
    return Call(_APPEND, (stream, keys.LOGS), (chunk, life_ms, most_chunks, "1" if drop_oldest else ""), _decode_append)
