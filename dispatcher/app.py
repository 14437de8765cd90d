"""The dispatcher's HTTP front end: an ASGI application over the operations' handlers.

A request passes, in this order: the guard (who may talk to this server at all), the pages under ``/_everwarm/`` or the
route of an operation, the size limit, identity (signature or function token), parsing, validation, the handler, the
serialiser. The AWS paths are plain ASGI, since ``Invoke`` is the hot path; the pages are Starlette's.
"""

import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from dispatcher.operations import Call, Handler, Services, handlers
from dispatcher.routes import Routes, api_routes
from dispatcher.settings import DispatcherSettings
from dispatcher.wire.errors import AwsError, encode_error
from dispatcher.wire.model import operations
from dispatcher.wire.parse import parser_of
from dispatcher.wire.serialise import HttpResponse, serialiser_of
from dispatcher.wire.validate import validate

# ASGI's own types: messages are dicts of any value.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

PAGES: Final = "/_everwarm"
_JSON: Final = (b"content-type", b"application/json")
_logger: Final = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client closed the connection before its request was complete; nobody is left to answer."""


def create_app(
    services: Services,
    settings: DispatcherSettings,
    *,
    pages: Sequence[BaseRoute] = (),
    operation_handlers: Mapping[str, Handler] | None = None,
) -> Asgi:
    """The application. ``pages`` are the routes below ``/_everwarm``; ``operation_handlers`` default to all registered.

    Raises ``ValueError`` when a handler is registered for an operation that AWS does not have.
    """
    chosen = handlers() if operation_handlers is None else operation_handlers
    unknown = chosen.keys() - operations().keys()
    if unknown:
        raise ValueError(f"no such operation in AWS's model: {', '.join(sorted(unknown))}")
    return Application(services, settings, Starlette(routes=list(pages)), chosen)


class Application:
    """See the module's docstring."""

    def __init__(
        self, services: Services, settings: DispatcherSettings, pages: Asgi, chosen: Mapping[str, Handler]
    ) -> None:
        self._services = services
        self._settings = settings
        self._pages = pages
        self._handlers = chosen
        self._routes: Routes = api_routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
            return
        path: str = scope["raw_path"].decode("latin-1")
        if path.startswith(PAGES + "/"):
            await self._pages({**scope, "root_path": PAGES}, receive, send)
            return
        request_id = str(uuid.uuid4())
        try:
            response = await self._answer(scope, receive, path, request_id)
        except ClientGone:
            return
        except AwsError as error:
            response = HttpResponse(*encode_error(error))
        except Exception:
            _logger.exception("request failed", extra={"request_id": request_id, "path": path})
            response = HttpResponse(*encode_error(AwsError("ServiceException", "An internal error occurred.")))
        await _send(send, response, request_id)

    async def _answer(self, scope: Scope, receive: Receive, path: str, request_id: str) -> HttpResponse:
        query = scope["query_string"].decode("latin-1")
        operation, segments = self._routes.match(scope["method"], path, query)
        handler = self._handlers.get(operation.name)
        if handler is None:
            raise AwsError("NotImplemented", f"Everwarm does not have the operation {operation.name} yet.")
        headers = dict(scope["headers"])
        body = await _read(receive)
        request = parser_of(operation)(segments, query, headers, body)
        validate(operation, request)
        call = Call("000000000000", "us-east-1", request_id, self._services)
        return serialiser_of(operation)(await handler(call, request))


async def _read(receive: Receive) -> bytes:
    """The whole body."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    if not message.get("more_body"):
        return bytes(message.get("body", b""))
    chunks = [message.get("body", b"")]
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(message.get("body", b""))
    return b"".join(chunks)


async def _send(send: Send, response: HttpResponse, request_id: str) -> None:
    headers = [(b"x-amzn-requestid", request_id.encode()), _JSON, *response.headers]
    if response.status != 204:
        headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
