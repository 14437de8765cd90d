"""The pages below ``/_everwarm``: health, what runs, metrics and logs.

Where requests are signed, environments and logs are those of the signer's account; metrics are the operator's.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Final

from redis import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dispatcher.admin.metrics import CONTENT_TYPE, Figures, metrics_text
from dispatcher.function_logs import Logs
from dispatcher.http.identity import DEFAULT_ACCOUNT, DEFAULT_REGION, own_account, signer_of
from dispatcher.ledger.listing import gauges
from dispatcher.operations.services import Services
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
    """The page, with 503 while Redis or the database is gone."""

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
    """The pages on health, environments, metrics and logs, over the dispatcher's parts."""

    def __init__(self, services: Services, logs: Logs) -> None:
        self._services = services
        self._logs = logs

    def routes(self) -> list[Route]:
        """The routes of these pages, relative to ``/_everwarm``."""
        return [
            Route("/live", self.live),
            Route("/ready", self.ready),
            Route("/health", self.health),
            Route("/environments", self.environments),
            Route("/metrics", self.metrics),
            Route("/logs/{function}", self.function_log),
        ]

    async def live(self, _: Request) -> Response:
        """Liveness: 200 while the process lives."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """Readiness: 200 while the dispatcher can take requests, 503 while Redis is gone."""
        return self._status(await self._services.fleet.ping())

    async def health(self, _: Request) -> Response:
        """Health: 200 and the modes once the dispatcher can run a function, else 503."""
        fleet = self._services.fleet
        if not await fleet.ping() or self._services.default_mode not in fleet.modes:
            return JSONResponse({"status": "starting", "modes": sorted(fleet.modes)}, status_code=503)
        return JSONResponse({"status": "ok", "modes": sorted(fleet.modes)})

    @_needs_redis
    async def environments(self, request: Request) -> Response:
        """All environments, or those of the signer's account."""
        signer = signer_of(request.scope)
        rows = [
            {
                "id": record["id"],
                **{name: record.get(name, "") for name in _SHOWN},
                "last_use": int(record.get("last_use", 0)),
            }
            for record in await self._services.fleet.environments()
            if not signer or record.get("account") == signer
        ]
        return JSONResponse({"environments": rows})

    @_needs_redis
    async def metrics(self, _: Request) -> Response:
        """The metrics in Prometheus' text format."""
        services = self._services
        figures = Figures(
            modes=services.fleet.modes,
            workers=list(services.fleet.workers.values()),
            environments=await services.fleet.environments(),
            calls_waiting=services.sync_calls.waiting,
            counters=dict(services.ledger.counters),
            gauges=await services.ledger.read(gauges),
            now_ms=services.ledger.clock.now_ms(),
        )
        # A thousand functions are ten thousand lines, which calls must not wait for.
        return Response(await asyncio.to_thread(metrics_text, figures), media_type=CONTENT_TYPE)

    @_needs_redis
    async def function_log(self, request: Request) -> Response:
        """What a function wrote; with ``?follow=1`` also what it writes from now on.

        ``?account=`` and ``?region=`` name the function fully.
        """
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
        return StreamingResponse(self._logs.read_log(path, follow=follow), media_type="text/plain; charset=utf-8")

    @staticmethod
    def _status(good: bool) -> Response:
        return JSONResponse({"status": "ok" if good else "unavailable"}, status_code=200 if good else 503)
