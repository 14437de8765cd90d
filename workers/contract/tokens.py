"""How a worker tells the dispatcher that a request is a function's: the environment is the identity, not its credentials."""

import hashlib
import hmac
from typing import Final

#: ``account:region:name`` of the function that makes the request.
FUNCTION_HEADER: Final = "x-everwarm-function"
TOKEN_HEADER: Final = "x-everwarm-token"


def function_token(secret: bytes, method: str, raw_path: str, function: str) -> str:
    """The value of ``x-everwarm-token``: HMAC-SHA256 in hex over method, path (without query) and ``x-everwarm-function``.

    ``secret`` is what the dispatcher keeps in Redis for its workers (``keys.SECRET``).
    """
    return hmac.new(secret, f"{method}\n{raw_path}\n{function}".encode(), hashlib.sha256).hexdigest()
