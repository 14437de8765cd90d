"""The dispatcher's HTTP front end: an ASGI application over the operations' handlers.

A request passes, in this order: the guard (who may talk to this server at all), the pages under ``/_everwarm/`` or the
route of an operation, identity, the size limit, the body, the signature, parsing, validation, the handler, the serialiser.
The AWS paths are plain ASGI, since ``Invoke`` is the hot path; the pages are Starlette's.
"""

import asyncio
import hmac
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from dispatcher.http.guard import Guard
from dispatcher.http.identity import (
    FUNCTION_HEADER,
    PAGE_ACCOUNT,
    TOKEN_HEADER,
    Claim,
    Request,
    check_function_api,
    claim_of,
)
from dispatcher.http.peers import peer_guard
from dispatcher.operations.call import Call, Handler
from dispatcher.operations.registry import handlers
from dispatcher.operations.services import Services
from dispatcher.settings import DispatcherSettings
from dispatcher.wire.errors import AwsError, encode_error
from dispatcher.wire.model import Operation, operations
from dispatcher.wire.parse import parser_of
from dispatcher.wire.routes import Routes, api_routes
from dispatcher.wire.serialise import HttpResponse, serialiser_of
from dispatcher.wire.validate import validate

# ASGI's own types: messages are dicts of any value.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

PAGES: Final = "/_everwarm"
#: Pages that say whether the process lives and nothing more, to probes that call it by whatever address it has.
OPEN_PAGES: Final = frozenset({f"{PAGES}/live", f"{PAGES}/ready"})
#: Zips for workers and callers: the URLs carry a signature of their own, which the page checks.
CODE_PAGES: Final = f"{PAGES}/code/"
METRICS_PAGE: Final = f"{PAGES}/metrics"
_PAGE_BYTES: Final = 16 * 1024 * 1024
#: AWS's limit for asynchronous invocations.
ASYNC_BYTES: Final = 1024 * 1024

#: Bodies from this size on are parsed in a thread.
_LARGE: Final = 1024 * 1024

#: Go's default client keeps idle connections for 90 s, others for less.
_KEEP_ALIVE_S: Final = 100

_JSON: Final = (b"content-type", b"application/json")
_logger: Final = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client closed the connection before its request was complete; nobody is left to answer."""


def create_app(
    services: Services,
    settings: DispatcherSettings,
    *,
    pages: Sequence[BaseRoute] = (),
    function_secret: bytes = b"",
    operation_handlers: Mapping[str, Handler] | None = None,
) -> Asgi:
    """The application.

    ``pages`` are Starlette routes relative to ``/_everwarm``; ``function_secret`` is the key of the tokens on functions'
    own calls (empty: there are none); ``operation_handlers`` default to all that are registered.
    Raises ``ValueError`` when a handler is registered for an operation that AWS does not have.
    """
    chosen = handlers() if operation_handlers is None else operation_handlers
    unknown = chosen.keys() - operations().keys()
    if unknown:
        raise ValueError(f"no such operation in AWS's model: {', '.join(sorted(unknown))}")
    app = Application(services, settings, Starlette(routes=list(pages)), function_secret, chosen)
    if not settings.allowed_origins:
        return app
    # The guard refuses other origins; this tells the browsers of the allowed ones what it lets them do.
    return CORSMiddleware(
        app, allow_origins=settings.allowed_origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["*"]
    )


def server_config(app: Asgi, settings: DispatcherSettings) -> uvicorn.Config:
    """How uvicorn serves it: the guarded protocol, no logging of its own, and connections kept longer than SDKs keep them.

    A server that closes an idle connection first races with the client's next request on it.
    """
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=peer_guard(settings.local_uids),
        loop="uvloop",
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.drain_s) + 1,
    )


class Application:
    """The ASGI application: see the module's docstring."""

    def __init__(
        self,
        services: Services,
        settings: DispatcherSettings,
        pages: Asgi,
        function_secret: bytes,
        chosen: Mapping[str, Handler],
    ) -> None:
        self._services = services
        self._settings = settings
        self._pages = pages
        self._secret = function_secret
        self._handlers = chosen
        self._guard = Guard(settings)
        self._routes: Routes = api_routes()
        # The zip travels as base64 in a JSON document, and AWS leaves no more room than that.
        self._document_bytes = -(-settings.code_zipped_bytes * 4 // 3)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or websocket; see :data:`Asgi`."""
        if scope["type"] == "lifespan":
            await self._pages(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = str(uuid.uuid4())
        try:
            path: str = scope["raw_path"].decode("latin-1")
            if path.startswith(PAGES + "/"):
                account, receive = await self._admit_to_page(path, scope, receive)
                page_scope = {**scope, "root_path": PAGES}
                if account is not None:
                    page_scope[PAGE_ACCOUNT] = account
                await self._pages(page_scope, receive, send)
                return
            response = await self._answer(path, scope, receive, request_id)
        except ClientGone:
            return
        except AwsError as error:
            response = HttpResponse(*encode_error(error))
        except Exception:
            _logger.exception("request failed", extra={"request_id": request_id})
            response = HttpResponse(*encode_error(AwsError("ServiceException", "An internal error occurred.")))
        await _send_response(send, response, request_id)

    async def _answer(self, path: str, scope: Scope, receive: Receive, request_id: str) -> HttpResponse:
        raw_headers = scope["headers"]
        self._guard.check_request(raw_headers, scope)
        query = scope["query_string"].decode("latin-1")
        operation, segments = self._routes.match(scope["method"], path, query)
        headers: dict[bytes, bytes] = dict(raw_headers)
        request = Request(scope["method"], path, query, raw_headers, headers)
        claim = self._claim(request)
        check_function_api(claim.identity, operation.name, self._settings.function_api)
        handler = self._handlers.get(operation.name)
        if handler is None:
            raise AwsError("NotImplemented", f"Everwarm does not have the operation {operation.name} yet.")
        limit = self._body_limit(operation, headers)
        body = await _read_body(receive, headers, limit, lambda: _too_large(operation, limit))

        def understand() -> dict[str, Any]:
            claim.check_body(request, body)
            members = parser_of(operation)(segments, query, headers, body)
            validate(operation, members)
            return members

        # A zip of 50 MB takes 0.15 s, in which others would wait.
        members = understand() if len(body) < _LARGE else await asyncio.to_thread(understand)
        call = Call(
            account=claim.identity.account,
            region=claim.identity.region,
            request_id=request_id,
            services=self._services,
            caller=claim.identity.function,
            trace_id=headers.get(b"x-amzn-trace-id", b"").decode("latin-1"),
        )
        return serialiser_of(operation)(await handler(call, members))

    def _claim(self, request: Request) -> Claim:
        return claim_of(request, self._settings.credentials, self._secret, datetime.now(UTC))

    def _body_limit(self, operation: Operation, headers: Mapping[bytes, bytes]) -> int:
        """The longest body that the operation takes, in bytes."""
        if operation.name not in {"Invoke", "InvokeWithResponseStream", "InvokeAsync"}:
            return self._document_bytes
        if operation.name == "InvokeAsync" or headers.get(b"x-amz-invocation-type") == b"Event":
            return min(ASYNC_BYTES, self._settings.max_payload_bytes)
        return self._settings.max_payload_bytes

    async def _admit_to_page(self, path: str, scope: Scope, receive: Receive) -> tuple[str | None, Receive]:
        """Raises an :class:`AwsError` for a page that the request may not see.

        Answers the account that signed it, if that was asked for, and how its body is to be read.
        """
        if path in OPEN_PAGES:
            return None, receive
        self._guard.check_request(scope["headers"], scope)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if FUNCTION_HEADER in headers or TOKEN_HEADER in headers:
            raise AwsError("AccessDeniedException", "Functions may not see these pages.")
        if path.startswith(CODE_PAGES) or (path == METRICS_PAGE and self._has_metrics_token(headers)):
            return None, receive
        if not self._settings.credentials:
            return None, receive
        request = Request(scope["method"], path, scope["query_string"].decode("latin-1"), scope["headers"], headers)
        claim = self._claim(request)
        body = await _read_body(receive, headers, _PAGE_BYTES, lambda: _page_too_large(path))
        claim.check_body(request, body)
        return claim.identity.account, _replay(body, receive)

    def _has_metrics_token(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the bearer token is there; raises ``AccessDeniedException`` when a token is set and this is not it."""
        token = self._settings.metrics_token
        if not token:
            return False
        given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if not hmac.compare_digest(given, token.encode()):
            raise AwsError("AccessDeniedException", "This page takes EVERWARM_METRICS_TOKEN as a bearer token.")
        return True


def _too_large(operation: Operation, limit: int) -> AwsError:
    if operation.name.startswith("Invoke"):
        return AwsError(
            "RequestTooLargeException", f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
        )
    return AwsError(
        "RequestEntityTooLargeException",
        f"Request must be smaller than {limit} bytes for the {operation.name} operation",
    )


def _page_too_large(path: str) -> AwsError:
    return AwsError("RequestEntityTooLargeException", f"Request must be smaller than {_PAGE_BYTES} bytes for {path}")


async def _read_body(
    receive: Receive, headers: Mapping[bytes, bytes], limit: int, error: Callable[[], AwsError]
) -> bytes:
    """The whole body, of ``limit`` bytes at most (else ``error``); a declared length is believed before anything is read."""
    if int(headers.get(b"content-length", b"0")) > limit:
        raise error()
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if size > limit:
            raise error()
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives a body that has been read once more, then whatever comes."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def _send_response(send: Send, response: HttpResponse, request_id: str) -> None:
    headers = [(b"x-amzn-requestid", request_id.encode()), _JSON, *response.headers]
    if response.status != 204:  # A 204 has no body, and says nothing of its length.
        headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
