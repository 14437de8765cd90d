"""One dispatcher process: its parts built, served by uvicorn, and taken down in order."""

import asyncio
import contextlib
import gc
import hashlib
import hmac
import logging
import socket
from collections.abc import AsyncIterator
from typing import Final

import uvicorn
import uvloop

from dispatcher.admin.invocations import InvocationPages
from dispatcher.admin.pages import Pages
from dispatcher.calls.admission import Admission
from dispatcher.calls.fleet import Fleet
from dispatcher.calls.preparing import Preparing
from dispatcher.calls.sync_calls import SyncCalls
from dispatcher.catalog import functions
from dispatcher.catalog.catalog import Catalog
from dispatcher.clock import Clock
from dispatcher.code.store import CodeCollector, CodeStore
from dispatcher.events.asynchronous_path import asynchronous_path
from dispatcher.events.cancelling import Canceller
from dispatcher.function_logs import Logs
from dispatcher.http.app import create_app, server_config
from dispatcher.ledger.ledger import Ledger
from dispatcher.ledger.retention import Pruner
from dispatcher.loops import cancel, forever
from dispatcher.operations.services import Services
from dispatcher.redis_client import connect
from dispatcher.settings import DispatcherSettings
from workers.contract.messages import Mode

DEFAULT_MODE: Final[Mode] = "local"
#: Workers that stop at the same time say by then which calls they interrupted.
_INTERRUPTED_S: Final = 0.5

log = logging.getLogger(__name__)


def serve_until_signal(settings: DispatcherSettings) -> None:
    """Serve until SIGINT or SIGTERM. Raises ``CatalogBusy`` and the like before anything listens."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: DispatcherSettings) -> None:
    async with _parts(settings) as (services, logs, secret), connect(settings.redis_url) as redis:
        pages = Pages(services, logs).routes()
        pages += InvocationPages(services.ledger, Canceller(services.ledger, redis)).routes()
        app = create_app(services, settings, pages=pages + services.code.routes(), function_secret=secret)
        # What is there by now stays, and needs no looking through for garbage (see workers.app).
        gc.collect()
        gc.freeze()
        await _Server(server_config(app, settings), services.sync_calls, logs, settings.drain_s).serve()


class _Server(uvicorn.Server):
    """uvicorn's server; at its stop, followers of logs are let go at once, and calls that wait too long are answered before their
    connections are closed.
    """

    def __init__(self, config: uvicorn.Config, sync_calls: SyncCalls, logs: Logs, drain_s: float) -> None:
        super().__init__(config)
        self._sync_calls = sync_calls
        self._logs = logs
        self._drain_s = drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._logs.stop_following()
        last_answers = asyncio.create_task(self._answer_the_last(), name="last answers")
        try:
            await super().shutdown(sockets)
        finally:
            await cancel(last_answers)

    async def _answer_the_last(self) -> None:
        await asyncio.sleep(self._drain_s + _INTERRUPTED_S)
        await self._sync_calls.close()


@contextlib.asynccontextmanager
async def _parts(settings: DispatcherSettings) -> AsyncIterator[tuple[Services, Logs, bytes]]:
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    default_mode = settings.executor or DEFAULT_MODE
    loop = asyncio.get_running_loop()
    code_made: asyncio.Future[CodeStore] = loop.create_future()
    fleet_made: asyncio.Future[Fleet] = loop.create_future()
    url = settings.database_url or f"sqlite:///{settings.data_dir / 'everwarm.db'}"
    catalog = await Catalog.open(url, Preparing(code_made, fleet_made, default_mode))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(catalog.close)
        secret = hmac.new(catalog.signing_secret, b"functions", hashlib.sha256).hexdigest().encode()
        code = CodeStore.from_settings(settings, catalog.signing_secret)
        fleet = Fleet(settings.redis_url, function_secret=secret)
        stack.push_async_callback(fleet.close)
        sync_calls = SyncCalls(settings.redis_url, fleet, queue_wait_s=settings.sync_queue_wait_s)
        await sync_calls.start()
        code_made.set_result(code)
        fleet_made.set_result(fleet)
        stack.push_async_callback(sync_calls.close)
        collector = asyncio.create_task(
            CodeCollector(code, lambda: catalog.read(functions.code_in_use)).collect_forever(), name="zips"
        )
        stack.push_async_callback(cancel, collector)
        logs = Logs(settings.redis_url, settings.data_dir / "logs", settings.logs_max_bytes)
        logs.start()
        stack.push_async_callback(logs.close)
        ledger = Ledger(
            catalog.database,
            Clock(settings.time_scale),
            retry_base_s=settings.retry_base_s,
            result_bytes=settings.result_max_bytes,
            directory=catalog.database.directory,
        )
        stack.push_async_callback(ledger.close)
        services = Services(
            catalog, code, sync_calls, fleet, Admission(catalog, settings), settings, ledger, default_mode
        )
        await stack.enter_async_context(asynchronous_path(services))
        pruning = forever(Pruner(ledger, settings.ledger_retention).step, "deleting old events")
        pruner = asyncio.create_task(pruning, name="retention")
        stack.push_async_callback(cancel, pruner)
        yield services, logs, secret
