"""The functions' own calls of this server's Lambda API: from their relay on to the dispatcher.

The environment is the identity: whatever credentials a function uses, the call is made in its name, by a token that
only the worker and the dispatcher can make (``dispatcher.identity`` verifies it). ``/_everwarm/`` is never reached.
"""

import hashlib
import hmac
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

import urllib3

from workers.contract import keys
from workers.contract.messages import FunctionSpec
from workers.environment import Environment
from workers.link import ApiRequest
from workers.loop import LoopThread
from workers.store import Store, Unavailable

FUNCTION_HEADER: Final = "x-everwarm-function"
TOKEN_HEADER: Final = "x-everwarm-token"
#: An invocation may take 900 s, after a wait in the queue.
_ANSWER_S: Final = 930.0
#: What only concerns one connection, or names who is calling.
_NOT_FORWARDED: Final = frozenset(
    ("connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "content-length", "authorization",
     "x-amz-security-token", "expect", "origin", FUNCTION_HEADER, TOKEN_HEADER)
)  # fmt: skip

log = logging.getLogger(__name__)


class FunctionApi:
    """Forwards requests, each in a thread: it waits for the answer."""

    def __init__(self, endpoint: str, store: Store, loop: LoopThread, threads: int) -> None:
        self._endpoint = endpoint
        self._store = store
        self._loop = loop
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="function-api")
        self._http = urllib3.PoolManager(
            maxsize=threads, timeout=urllib3.Timeout(connect=5.0, read=_ANSWER_S), retries=False
        )

    def forward(self, environment: Environment, request: ApiRequest) -> None:
        """On the links' thread: answer the request later."""
        self._threads.submit(self._serve, environment, request)

    def _serve(self, environment: Environment, request: ApiRequest) -> None:
        status, headers, body = self._ask(environment.spec, request)
        self._loop.call(environment.relay.link.respond, request.stream, status, headers, body)

    def _ask(self, spec: FunctionSpec, request: ApiRequest) -> tuple[int, list[tuple[str, str]], bytes]:
        if not request.target.startswith("/"):
            # Anything else would become part of the dispatcher's address.
            return _refusal(400, "InvalidRequestContentException", "The request's target must be a path.")
        path = urlsplit(request.target).path
        if path.startswith("/_everwarm"):
            return _refusal(403, "AccessDeniedException", "Functions may not see these pages.")
        function = f"{spec.account}:{spec.region}:{spec.function}"
        headers = urllib3.HTTPHeaderDict(
            [(name, value) for name, value in request.headers if name.lower() not in _NOT_FORWARDED]
        )
        try:
            headers[FUNCTION_HEADER] = function
            headers[TOKEN_HEADER] = self._token(request.method, path, function)
            answer = self._http.request(
                request.method,
                self._endpoint + request.target,
                body=request.body,
                headers=headers,
                decode_content=False,
                redirect=False,
            )
        except (urllib3.exceptions.HTTPError, *Unavailable) as error:
            log.warning("a function's call did not reach the dispatcher", extra={"error": str(error)})
            return _refusal(503, "ServiceException", "The Lambda API can't be reached.")
        kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _NOT_FORWARDED]
        return answer.status, kept, answer.data

    def _token(self, method: str, path: str, function: str) -> str:
        # Read for each call: a dispatcher with another database, and so another secret, may have come meanwhile.
        found = self._store.client.get(keys.SECRET)
        secret = found if isinstance(found, bytes) else b""
        return hmac.new(secret, f"{method}\n{path}\n{function}".encode(), hashlib.sha256).hexdigest()

    def close(self) -> None:
        """Take no more; what is under way dies with the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _refusal(status: int, code: str, message: str) -> tuple[int, list[tuple[str, str]], bytes]:
    body = f'{{"Type":"User","message":"{message}"}}'.encode()
    return status, [("content-type", "application/json"), ("x-amzn-errortype", code)], body
