"""The front end over toy operations, served by uvicorn on a free port of loopback."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import boto3
import uvicorn
from botocore.config import Config
from starlette.requests import Request as PageRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dispatcher.http.app import create_app, server_config
from dispatcher.operations.call import Call, Handler, Request, Response
from dispatcher.operations.services import Services
from dispatcher.settings import DispatcherSettings
from dispatcher.wire.errors import AwsError
from dispatcher.wire.parse import check_json

SERVICES = Services(*[None] * 7)  # type: ignore[arg-type]  # the toys use none
SECRET = b"secret of the functions' tokens"


async def invoke(call: Call, request: Request) -> Response:
    check_json(request["Payload"])
    if request.get("InvocationType") == "Event":
        return {"StatusCode": 202}
    if request.get("InvocationType") == "DryRun":
        return {"StatusCode": 204}
    return {
        "StatusCode": 200,
        "Payload": request["Payload"],
        "FunctionError": request.get("ClientContext"),
        "LogResult": call.caller or None,
        "ExecutedVersion": request.get("Qualifier", "$LATEST"),
    }


async def create_function(call: Call, request: Request) -> Response:
    return {
        "FunctionName": request["FunctionName"],
        "FunctionArn": f"arn:aws:lambda:{call.region}:{call.account}:function:{request['FunctionName']}",
        "CodeSize": len(request["Code"].get("ZipFile", b"")),
        "Description": None,
    }


async def get_function(call: Call, request: Request) -> Response:
    raise AwsError("ResourceNotFoundException", f"Function not found: {request['FunctionName']}")


async def delete_function(call: Call, request: Request) -> Response:
    raise RuntimeError("a bug with a planted-secret in it")


async def put_function_concurrency(call: Call, request: Request) -> Response:
    raise AwsError("TooManyRequestsException", "Rate Exceeded.", Reason="CallerRateLimitExceeded", retryAfterSeconds=7)


async def list_functions(call: Call, request: Request) -> Response:
    return {"Functions": [], "NextMarker": f"{call.account} {call.region} {request.get('MaxItems')}"}


async def untag_resource(call: Call, request: Request) -> Response:
    if request["TagKeys"] != ["a b", "c=d", "ü"]:
        raise AwsError("InvalidParameterValueException", repr(request["TagKeys"]))
    return {}


TOYS: dict[str, Handler] = {
    "Invoke": invoke,
    "CreateFunction": create_function,
    "GetFunction": get_function,
    "DeleteFunction": delete_function,
    "PutFunctionConcurrency": put_function_concurrency,
    "ListFunctions": list_functions,
    "UntagResource": untag_resource,
}


async def page(request: PageRequest) -> PlainTextResponse:
    return PlainTextResponse(f"page {request.url.path} {len(await request.body())}")


PAGES: Sequence[Route] = [
    Route("/live", page),
    Route("/metrics", page),
    Route("/environments", page, methods=["GET", "POST"]),
    Route("/code/{digest}", page),
]


@contextmanager
def serving(settings: DispatcherSettings) -> Iterator[str]:
    """Serves until the block ends; gives the endpoint."""
    app = create_app(SERVICES, settings, pages=PAGES, function_secret=SECRET, operation_handlers=TOYS)
    server = uvicorn.Server(server_config(app, settings))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def client(endpoint: str, key: str = "111122223333", secret: str = "x", *, validate: bool = False) -> Any:
    """A boto3 client that neither retries nor, as a rule, checks parameters itself."""
    return boto3.client(
        "lambda",
        endpoint_url=endpoint,
        region_name="eu-west-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}, parameter_validation=validate),
    )
