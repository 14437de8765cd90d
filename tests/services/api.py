"""The real application behind a real HTTP server, without workers: what the operations on functions need."""

import asyncio
import io
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
import uvicorn
from botocore.config import Config
from botocore.exceptions import ClientError
from mypy_boto3_lambda import LambdaClient

from dispatcher.calls.fleet import Fleet
from dispatcher.calls.sync_calls import SyncCalls
from dispatcher.catalog.catalog import Catalog
from dispatcher.code.store import CodeStore
from dispatcher.http.app import create_app
from dispatcher.operations.services import Services
from dispatcher.settings import DispatcherSettings, read
from tests.services.postgres import PostgresServer
from tests.services.processes import free_port
from tests.services.waiting import wait_until

ACCOUNT = "111111111111"
REGION = "eu-central-1"
ROLE = "arn:aws:iam::111111111111:role/lambda"
#: A port on which nothing listens.
NO_REDIS = "redis://127.0.0.1:1/0"


class ApiServer:
    """Catalog, code store and application in a thread of their own, on a free port."""

    def __init__(self, data: Path, environ: Mapping[str, str]) -> None:
        self.data = data
        self.settings: DispatcherSettings = read(
            {"EVERWARM_DATA": str(data), "EVERWARM_PORT": str(free_port()), **environ}
        )
        self.endpoint = self.settings.endpoint
        self.catalog: Catalog
        self.code: CodeStore
        self._server: uvicorn.Server
        self._loop: asyncio.AbstractEventLoop
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="api")

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        self._thread.start()
        wait_until("the API server runs", self._is_up)

    def _is_up(self) -> bool:
        if self._error is not None:
            raise self._error
        return hasattr(self, "_server") and self._server.started

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  raised again by start()
            self._error = error

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.catalog = await Catalog.open(self.settings.database_url)
        try:
            self.code = CodeStore.from_settings(self.settings, self.catalog.signing_secret)
            # Invoke, which no test on this server calls, needs them. Notes of updates find no Redis and are dropped.
            fleet = Fleet(NO_REDIS, function_secret=b"")
            sync_calls = SyncCalls(NO_REDIS, fleet, queue_wait_s=1.0)
            services = Services(
                catalog=self.catalog, code=self.code, sync_calls=sync_calls, fleet=fleet, admission=cast(Any, None),
                settings=self.settings, ledger=cast(Any, None),
            )  # fmt: skip
            app = create_app(services, self.settings, pages=self.code.routes())
            config = uvicorn.Config(
                cast(Any, app), port=self.settings.port, log_level="error", lifespan="off", server_header=False
            )
            server = uvicorn.Server(config)
            self._server = server
            await server.serve()
        finally:
            await self.catalog.close()

    def call(self, coroutine: Callable[[], Any]) -> Any:
        """Run something on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine(), self._loop).result(timeout=30)

    def client(self, account: str = ACCOUNT, region: str = REGION) -> LambdaClient:
        """boto3 as that account, without retries."""
        return boto3.client(
            "lambda",
            endpoint_url=self.endpoint,
            region_name=region,
            aws_access_key_id=account,
            aws_secret_access_key="secret",
            config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
        )

    def stop(self) -> None:
        """Stop serving, and close the catalog."""
        if hasattr(self, "_server"):
            self._server.should_exit = True
        self._thread.join(timeout=30)
        assert not self._thread.is_alive(), "the API server did not stop"


def zip_of(**files: str) -> bytes:
    """A zip with ``name__py="…"`` as ``name.py``; always the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name.replace("__", ".")), text)
    return buffer.getvalue()


CODE = zip_of(handler__py="def handler(event, context): return event\n")


class Functions:
    """A client with short ways to make functions, for one account that no other test uses."""

    def __init__(self, server: ApiServer, account: str) -> None:
        self.server = server
        self.account = account
        self.client = server.client(account)

    def arn(self, name: str, qualifier: str = "") -> str:
        """The function's ARN."""
        arn = f"arn:aws:lambda:{REGION}:{self.account}:function:{name}"
        return f"{arn}:{qualifier}" if qualifier else arn

    def create(self, name: str = "fn", *, wait: bool = True, **members: Any) -> dict[str, Any]:
        """CreateFunction with what is required filled in; waits until it is Active."""
        request = {
            "FunctionName": name, "Runtime": "python3.12", "Role": ROLE, "Handler": "handler.handler",
            "Code": {"ZipFile": CODE}, **members,
        }  # fmt: skip
        answer = self.client.create_function(**{key: value for key, value in request.items() if value is not None})
        if wait:
            self.wait_active(name)
        return dict(answer)

    def wait_active(self, name: str = "fn") -> None:
        """boto3's own waiter."""
        self.client.get_waiter("function_active_v2").wait(
            FunctionName=name,
            WaiterConfig={"Delay": 0.05, "MaxAttempts": 200},  # type: ignore[typeddict-item]
        )

    def wait_updated(self, name: str = "fn") -> None:
        """boto3's own waiter."""
        self.client.get_waiter("function_updated_v2").wait(
            FunctionName=name,
            WaiterConfig={"Delay": 0.05, "MaxAttempts": 200},  # type: ignore[typeddict-item]
        )

    def revision(self, name: str = "fn", qualifier: str = "$LATEST") -> str:
        """The current RevisionId."""
        return self.client.get_function_configuration(FunctionName=name, Qualifier=qualifier)["RevisionId"]

    def refused(self, operation: str, **request: Any) -> tuple[str, int, str]:
        """Code, status and message of the error that a call must get."""
        with pytest.raises(ClientError) as caught:
            getattr(self.client, operation)(**request)
        answer = caught.value.response
        return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def api_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One server for the session and database."""
    environ = {}
    if request.param == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        environ["EVERWARM_DATABASE_URL"] = postgres.new_database()
    server = ApiServer(tmp_path_factory.mktemp("api"), environ)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def make_api(tmp_path: Path) -> Iterator[Callable[..., ApiServer]]:
    """Starts servers on SQLite with further environment variables; all are stopped after the test."""
    servers: list[ApiServer] = []

    def make(environ: Mapping[str, str] | None = None, data: Path | None = None) -> ApiServer:
        server = ApiServer(data or tmp_path / f"api{len(servers)}", environ or {})
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.stop()


_accounts = iter(range(200_000_000_000, 300_000_000_000))


@pytest.fixture
def api(api_server: ApiServer) -> Functions:
    """The API as an account of the test's own."""
    return Functions(api_server, str(next(_accounts)))
