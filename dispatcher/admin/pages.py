"""The pages below ``/_everwarm``: health, what runs, metrics and logs.

Where requests are signed, environments and logs are those of the signer's account; metrics are the operator's.
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Final

from redis import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from dispatcher.admin.metrics import counter_lines, gauge_lines
from dispatcher.calls.sync_calls import Queue
from dispatcher.function_logs import Logs
from dispatcher.http.identity import DEFAULT_ACCOUNT, DEFAULT_REGION, own_account, signer_of
from dispatcher.ledger.ledger import Ledger
from dispatcher.ledger.listing import gauges
from dispatcher.wire.errors import AwsError

_SHOWN: Final = (
    "function",
    "version",
    "account",
    "region",
    "mode",
    "channel",
    "state",
    "worker",
    "container",
    "revision",
)

_Page = Callable[["Pages", Request], Awaitable[Response]]


def _needs_redis(page: _Page) -> _Page:
    """503 while Redis, or the database, is gone."""

    @wraps(page)
    async def answer(self: "Pages", request: Request) -> Response:
        try:
            return await page(self, request)
        except (RedisError, OSError):
            return JSONResponse({"message": "Redis does not answer"}, status_code=503)
        except AwsError as error:
            return JSONResponse({"message": error.message}, status_code=error.status)

    return answer


class Pages:
    """The endpoints, over the dispatcher's parts."""

    def __init__(self, queue: Queue, logs: Logs, ledger: Ledger, default_mode: str) -> None:
        self._queue = queue
        self._logs = logs
        self._ledger = ledger
        self._default_mode = default_mode

    def routes(self) -> list[Route]:
        """Relative to ``/_everwarm``."""
        return [
            Route("/live", self.live),
            Route("/ready", self.ready),
            Route("/health", self.health),
            Route("/environments", self.environments),
            Route("/metrics", self.metrics),
            Route("/logs/{function}", self.function_log),
        ]

    async def live(self, _: Request) -> Response:
        """200 while the process lives."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """200 while it can take requests, 503 while Redis is gone."""
        return self._status(await self._queue.ping())

    async def health(self, _: Request) -> Response:
        """200 and the modes once it can run a function, else 503."""
        if not await self._queue.ping() or self._default_mode not in self._queue.modes:
            return JSONResponse({"status": "starting", "modes": sorted(self._queue.modes)}, status_code=503)
        return JSONResponse({"status": "ok", "modes": sorted(self._queue.modes)})

    @_needs_redis
    async def environments(self, request: Request) -> Response:
        """All environments."""
        signer = signer_of(request.scope)
        rows = [
            {
                "id": record["id"],
                **{name: record.get(name, "") for name in _SHOWN},
                "last_use": int(record.get("last_use", 0)),
            }
            for record in await self._queue.environments()
            if not signer or record.get("account") == signer
        ]
        return JSONResponse({"environments": rows})

    @_needs_redis
    async def metrics(self, _: Request) -> Response:
        """Prometheus' text format."""
        workers = self._queue.workers
        records = await self._queue.environments()
        lines = ["# HELP everwarm_workers Living workers.", "# TYPE everwarm_workers gauge"]
        for mode in sorted(self._queue.modes):
            count = sum(worker["mode"] == mode for worker in workers.values())
            lines.append(f'everwarm_workers{{mode="{mode}"}} {count}')
        lines += ["# HELP everwarm_slots Invocations that can run at a time.", "# TYPE everwarm_slots gauge"]
        for mode in sorted(self._queue.modes):
            slots = sum(int(worker["slots"]) for worker in workers.values() if worker["mode"] == mode)
            lines.append(f'everwarm_slots{{mode="{mode}"}} {slots}')
        lines += ["# HELP everwarm_environments Environments by state.", "# TYPE everwarm_environments gauge"]
        for state in ("starting", "leased", "idle"):
            count = sum(record.get("state") == state for record in records)
            lines.append(f'everwarm_environments{{state="{state}"}} {count}')
        lines += ["# HELP everwarm_calls_waiting Synchronous calls under way.", "# TYPE everwarm_calls_waiting gauge"]
        lines.append(f"everwarm_calls_waiting {self._queue.waiting}")
        lines += counter_lines(self._ledger.counters)
        lines += gauge_lines(await self._ledger.read(gauges), self._ledger.clock.now_ms())
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    @_needs_redis
    async def function_log(self, request: Request) -> Response:
        """What a function wrote; ``?follow=1`` goes on, ``?account=`` and ``?region=`` name it fully."""
        query = request.query_params
        try:
            path = self._logs.path(
                own_account(query.get("account", ""), signer_of(request.scope)) or DEFAULT_ACCOUNT,
                query.get("region", DEFAULT_REGION),
                request.path_params["function"],
            )
        except ValueError as error:
            return JSONResponse({"message": str(error)}, status_code=404)
        follow = query.get("follow") == "1"
        if not follow and not path.exists():
            return JSONResponse({"message": "this function has written nothing yet"}, status_code=404)
        return StreamingResponse(self._logs.read(path, follow=follow), media_type="text/plain; charset=utf-8")

    @staticmethod
    def _status(good: bool) -> Response:
        return JSONResponse({"status": "ok" if good else "unavailable"}, status_code=200 if good else 503)
