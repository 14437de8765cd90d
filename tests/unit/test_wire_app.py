"""The ASGI application over toy operations, without a socket."""

import asyncio
from typing import Any

import httpx
import pytest

from dispatcher.http.app import create_app
from dispatcher.operations.call import Call, Request, Response
from dispatcher.operations.services import Services
from dispatcher.settings import DispatcherSettings

SERVICES = Services(*[None] * 7)  # type: ignore[arg-type]  # the toys use none


async def echo(call: Call, request: Request) -> Response:
    """An Invoke that answers its own payload."""
    return {"StatusCode": 200, "Payload": request["Payload"], "ExecutedVersion": "$LATEST", "LogResult": None}


async def broken(call: Call, request: Request) -> Response:
    """A handler with a bug."""
    raise KeyError("planted-secret")


def send(method: str, path: str, *, content: bytes = b"", headers: dict[str, str] | None = None) -> httpx.Response:
    app = create_app(SERVICES, DispatcherSettings(), operation_handlers={"Invoke": echo, "GetFunction": broken})

    async def go() -> httpx.Response:
        transport: Any = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, content=content, headers=headers)

    return asyncio.run(go())


def test_invoke_answers_payload_status_and_headers() -> None:
    answer = send("POST", "/2015-03-31/functions/echo/invocations", content=b'{"a":1}')
    assert answer.status_code == 200
    assert answer.content == b'{"a":1}'
    assert answer.headers["x-amz-executed-version"] == "$LATEST"
    assert "x-amz-log-result" not in answer.headers
    assert len(answer.headers["x-amzn-requestid"]) == 36


def test_operation_not_built_is_named() -> None:
    answer = send("DELETE", "/2015-03-31/functions/echo")
    assert answer.status_code == 501
    assert "DeleteFunction" in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("PUT", "/2015-03-31/functions", 405)]
)
def test_an_unknown_route_is_an_unknown_operation(method: str, path: str, status: int) -> None:
    answer = send(method, path)
    assert answer.status_code == status
    assert answer.headers["x-amzn-errortype"] == "UnknownOperationException"


def test_bug_in_a_handler_says_nothing_to_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    answer = send("GET", "/2015-03-31/functions/echo")
    assert answer.status_code == 500
    assert answer.json() == {"Type": "Service", "Message": "An internal error occurred."}
    assert "planted-secret" not in answer.text
    assert [record.message for record in caplog.records] == ["request failed"]
