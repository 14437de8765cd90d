"""The functions' own calls of this server's Lambda API: from their relay on to the dispatcher.

The environment is the identity: whatever credentials a function uses, the call is made in its name, by a token that
only the worker and the dispatcher can make (``dispatcher.http.identity`` verifies it). ``/_everwarm/`` is never reached.
"""

import logging
import threading
from collections import Counter, deque
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import unquote

import urllib3
from urllib3.util import parse_url

from workers.contract import keys
from workers.contract.messages import FunctionSpec
from workers.contract.tokens import FUNCTION_HEADER, TOKEN_HEADER, function_token
from workers.environments.environment import Environment
from workers.link.answers import ApiRequest
from workers.link.loop_thread import LoopThread
from workers.link.relay_link import Link
from workers.redis_client import Store, Unavailable

#: How many requests of one environment may wait or be under way.
PER_ENVIRONMENT: Final = 16
#: What the bodies of all requests together may take of the memory.
_BODY_BYTES: Final = 256 * 1024 * 1024
#: How long a thread with nothing to do stays, because it has its connection to Redis.
_IDLE_S: Final = 60.0
#: An invocation may take 900 s, after a wait in the queue.
_ANSWER_S: Final = 930.0
#: Headers that only concern one connection, or name who is calling.
_NOT_FORWARDED: Final = frozenset(
    ("connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "content-length", "authorization",
     "x-amz-security-token", "expect", "origin", FUNCTION_HEADER, TOKEN_HEADER)
)  # fmt: skip

log = logging.getLogger(__name__)


class _Call(NamedTuple):
    """A request, and where its answer goes: the environment may have another link by then."""

    environment: Environment
    link: Link
    request: ApiRequest


class FunctionApi:
    """Forwards requests, each in a thread that waits for the answer."""

    def __init__(self, endpoint: str, store: Store, loop: LoopThread, threads: int) -> None:
        """``threads``: how many requests are under way at a time; more wait, within limits."""
        self._endpoint = endpoint
        self._store = store
        self._loop = loop
        self._most_threads = threads
        self._http = urllib3.PoolManager(
            maxsize=threads, timeout=urllib3.Timeout(connect=5.0, read=_ANSWER_S), retries=False
        )
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._running = 0
        """How many threads there are; of these ``_idle`` wait for something to do."""
        self._idle = 0
        self._requests: Counter[str] = Counter()
        """Environment → how many of its requests wait or are under way."""
        self._body_bytes = 0
        """Size of all their bodies."""

    def forward(self, environment: Environment, request: ApiRequest) -> None:
        """On the links' thread: answer the request later, or refuse it."""
        link = environment.relay.link
        with self._changed:
            taken = (
                self._requests[environment.id] < PER_ENVIRONMENT and self._body_bytes + len(request.body) <= _BODY_BYTES
            )
            if taken:
                self._requests[environment.id] += 1
                self._body_bytes += len(request.body)
                self._waiting.append(_Call(environment, link, request))
                self._changed.notify()
            # A thread that was just notified still counts as idle.
            more = taken and len(self._waiting) > self._idle and self._running < self._most_threads
            self._running += more
        if not taken:
            refusal = _refusal(429, "TooManyRequestsException", "Too many calls of this environment are under way.")
            link.respond(request.stream, *refusal)
        elif more:
            # A daemon, so that the worker can end while somebody's answer is awaited.
            threading.Thread(target=self._work, name="function-api", daemon=True).start()

    def _work(self) -> None:
        """Serve what comes, until nothing has come for a while."""
        while (call := self._next_call()) is not None:
            try:
                self._serve(call)
            finally:
                name = call.environment.id
                with self._changed:
                    self._body_bytes -= len(call.request.body)
                    self._requests[name] -= 1
                    if not self._requests[name]:
                        del self._requests[name]

    def _next_call(self) -> _Call | None:
        with self._changed:
            if not self._waiting:
                self._idle += 1
                self._changed.wait_for(lambda: self._waiting, _IDLE_S)
                self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
            return None

    def _serve(self, call: _Call) -> None:
        try:
            status, headers, body = self._ask(call.environment.spec, call.request)
        except Exception:  # the function must not wait for an answer that does not come
            log.exception("a function's call could not be forwarded", extra={"environment": call.environment.id})
            status, headers, body = _refusal(502, "ServiceException", "The call could not be forwarded.")
        with suppress(RuntimeError):  # the loop is closed: the worker ends
            self._loop.call(call.link.respond, call.request.stream, status, headers, body)

    def _ask(self, spec: FunctionSpec, request: ApiRequest) -> tuple[int, list[tuple[str, str]], bytes]:
        try:
            target = _target(request.target)
        except ValueError as error:
            return _refusal(400, "InvalidRequestContentException", str(error))
        path = target.partition("?")[0]
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
                self._endpoint + target,
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
        return function_token(secret, method, path, function)

    def close(self) -> None:
        """Take no more; what is under way dies with the process."""
        with self._changed:
            self._waiting.clear()
            self._most_threads = 0


def _target(text: str) -> str:
    """Path and query as urllib3 sends them, which is what the token must be made of. Raises ``ValueError``.

    urllib3 writes percent signs' digits in capitals, quotes what a target can't contain, and resolves dot segments. Those
    are refused, as are empty ones, because whoever reads the path next could take it for another.
    """
    if not text.startswith("/"):
        # Anything else would become part of the dispatcher's address.
        raise ValueError("The request's target must be a path.")
    segments = unquote(text.partition("?")[0].partition("#")[0]).split("/")
    if any(segment in {".", ".."} for segment in segments) or "" in segments[1:-1] or text.startswith("//"):
        raise ValueError("The request's path has an empty segment, or one of dots.")
    sent = parse_url(f"http://dispatcher{text}").request_uri
    if parse_url(f"http://dispatcher{sent}").request_uri != sent:
        raise ValueError("The request's target is not a URL's.")
    return sent


def _refusal(status: int, code: str, message: str) -> tuple[int, list[tuple[str, str]], bytes]:
    body = f'{{"Type":"User","message":"{message}"}}'.encode()
    return status, [("content-type", "application/json"), ("x-amzn-errortype", code)], body
