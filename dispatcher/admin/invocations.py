"""The pages below ``/_everwarm/invocations``: see and cancel asynchronous invocations.

Where requests are signed, those of the signer's account; else all of them.
"""

import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final, get_args

from redis import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatcher.events.cancelling import Canceller, HasEnded, NoSuchEvent
from dispatcher.http.identity import DEFAULT_ACCOUNT, DEFAULT_REGION, own_account, signer_of
from dispatcher.ledger import listing
from dispatcher.ledger.accepting import key_of
from dispatcher.ledger.ledger import Ledger
from dispatcher.ledger.listing import STATES, Filters
from dispatcher.wire.errors import AwsError
from workers.contract.messages import Lane

_PLACE: Final = ("account", "region")
_FILTERS: Final = ("function", "state", "since", "until", "error", "origin", "lane")
#: Synchronous invocations are not in the ledger.
_LANES: Final = tuple(lane for lane in get_args(Lane) if lane != "sync")
_DEFAULT_LIMIT: Final = 100
_LIMIT: Final = 1000
_BODY_BYTES: Final = 64 << 10
_SPANS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
#: In 2255; ids of events have no room for more.
_LAST_MS: Final = 9_000_000_000_000
_WHEN: Final = "must be a time such as 2026-01-31T12:00:00Z, or how long ago, such as 15m, 2h or 7d"

_Page = Callable[["InvocationPages", Request], Awaitable[Response]]


class _BadRequest(Exception):
    """A request that makes no sense; the text says what would."""


def _answers_errors(page: _Page) -> _Page:
    """The page, with errors as JSON documents that have a ``message``."""

    @wraps(page)
    async def answer(self: "InvocationPages", request: Request) -> Response:
        try:
            return await page(self, request)
        except _BadRequest as error:
            return _error(400, str(error))
        except NoSuchEvent as error:
            return _error(404, f"no event has the request id {error}")
        except HasEnded as error:
            return _error(409, str(error))
        except AwsError as error:
            return _error(error.status, error.message)
        except (RedisError, OSError):
            return _error(503, "Redis does not answer")

    return answer


class InvocationPages:
    """The pages on asynchronous invocations, over the ledger."""

    def __init__(self, ledger: Ledger, canceller: Canceller) -> None:
        self._ledger = ledger
        self._canceller = canceller

    def routes(self) -> list[Route]:
        """The routes of these pages, relative to ``/_everwarm``."""
        return [
            Route("/invocations", self.matching),
            Route("/invocations/cancel", self.cancel_matching, methods=["POST"]),
            Route("/invocations/{request_id}", self.one),
            Route("/invocations/{request_id}/cancel", self.cancel, methods=["POST"]),
        ]

    @_answers_errors
    async def matching(self, request: Request) -> Response:
        """The newest events that match."""
        query = dict(request.query_params)
        limit = _limit(query.pop("limit", str(_DEFAULT_LIMIT)))
        found = await self._ledger.read(listing.list_events, parse_filters(query, signer_of(request.scope)), limit)
        return JSONResponse({"invocations": found})

    @_answers_errors
    async def one(self, request: Request) -> Response:
        """One event with its attempts and deliveries; ``?account=`` and ``?region=`` may say whose it has to be."""
        query, request_id = request.query_params, request.path_params["request_id"]
        account = own_account(query.get("account", ""), signer_of(request.scope))
        found = await self._ledger.read(listing.describe_event, account, query.get("region", ""), request_id)
        if found is None:
            raise NoSuchEvent(request_id)
        return JSONResponse(found)

    @_answers_errors
    async def cancel(self, request: Request) -> Response:
        """Cancel one event; 409 when it has ended."""
        request_id, signer = request.path_params["request_id"], signer_of(request.scope)
        if signer:
            row = await self._ledger.read(listing.find_event, request_id)
            if row is None or key_of(row.function).account != signer:
                raise NoSuchEvent(request_id)
        await self._canceller.cancel(request_id)
        return JSONResponse({"cancelled": 1, "request_ids": [request_id], "more": False})

    @_answers_errors
    async def cancel_matching(self, request: Request) -> Response:
        """Cancel what matches; ``"more": true`` says that there was no time for the rest, for which the caller asks again."""
        body = await _body(request)
        everything = body.pop("all", False)
        if everything is not True and everything is not False:
            raise _BadRequest("all: must be true or false")
        filters = parse_filters(body, signer_of(request.scope))
        if filters.state not in {None, "queued", "fed"}:
            raise _BadRequest("state: only what is queued or fed can be cancelled")
        if not everything and not body:
            raise _BadRequest('say which events: at least one filter, or {"all": true}')
        done = await self._canceller.cancel_matching(filters)
        return JSONResponse(
            {"cancelled": len(done.request_ids), "request_ids": done.request_ids[:_LIMIT], "more": done.more}
        )


def parse_filters(given: Mapping[str, Any], signer: str = "") -> Filters:
    """Filters as people write them. A function without account and region is the default account's, as everywhere.

    ``signer``: the only account that may be asked for, and the default; empty: any may.
    """
    for name, value in given.items():
        if name not in {*_PLACE, *_FILTERS}:
            raise _BadRequest(f"{name}: is no filter; there are {', '.join((*_PLACE, *_FILTERS))}")
        if not isinstance(value, str) or not value:
            raise _BadRequest(f"{name}: must be a text that is not empty")
    state = given.get("state")
    if state is not None and state not in STATES:
        raise _BadRequest(f"state: must be one of {', '.join(STATES)}")
    if given.get("lane", _LANES[0]) not in _LANES:
        raise _BadRequest(f"lane: must be one of {', '.join(_LANES)}")
    default_account, default_region = (DEFAULT_ACCOUNT, DEFAULT_REGION) if given.get("function") else ("", "")
    now_ms = int(time.time() * 1000)
    return Filters(
        account=own_account(given.get("account", ""), signer) or default_account,
        region=given.get("region", default_region),
        function=given.get("function", ""),
        state=state,
        since_ms=_moment_ms("since", given.get("since"), now_ms),
        until_ms=_moment_ms("until", given.get("until"), now_ms),
        error=given.get("error", ""),
        origin=given.get("origin", ""),
        lane=given.get("lane", ""),
    )


def _moment_ms(name: str, value: str | None, now_ms: int) -> int | None:
    if value is None:
        return None
    if match := re.fullmatch(r"(\d{1,9})([smhd])", value):
        return min(max(now_ms - int(match[1]) * _SPANS_MS[match[2]], 0), _LAST_MS)
    try:
        at = datetime.fromisoformat(value)
        return min(max(int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000), 0), _LAST_MS)
    except (ValueError, OverflowError):
        raise _BadRequest(f"{name}: {_WHEN}") from None


def _limit(value: str) -> int:
    if not re.fullmatch(r"\d{1,4}", value, re.ASCII) or not 1 <= int(value) <= _LIMIT:
        raise _BadRequest(f"limit: must be a whole number from 1 to {_LIMIT}")
    return int(value)


async def _body(request: Request) -> dict[str, Any]:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _BODY_BYTES:
            raise _BadRequest("the body is too long")
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _BadRequest("the body must be a JSON object")
    return found


def _error(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status_code=status)
