"""The settler: reads the outcomes of events' attempts, and has the ledger decide what becomes of each.

The settlers of all dispatchers are a consumer group of the stream: what one dispatcher read and did not settle before it died, another takes over. An entry is
deleted when its change is on disk. Under load many outcomes come with one read, and cost one commit.
"""

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

import msgspec
from redis.exceptions import ResponseError

from dispatcher.events.sizing import Sizing
from dispatcher.ledger.endings import Ending, Settled, error_document, storable
from dispatcher.ledger.ledger import Ledger
from dispatcher.loops import cancel, forever
from dispatcher.redis_client import connect, result_of
from dispatcher.wire.errors import AwsError
from workers.contract import keys
from workers.contract.messages import Outcome, VersionMismatch, decode_outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis.asyncio

_GROUP: Final = "ledger"
_MANY: Final = 500
_WAIT_MS: Final = 1000
#: The pause after several outcomes came at once, so that more of them share the next commit.
_GATHER_S: Final = 0.02
#: How long ago another dispatcher read what it will not settle any more.
_ABANDONED_MS: Final = 5000
_TAKE_OVER_S: Final = 2.0
_TIDY_S: Final = 600.0
_GONE_MS: Final = 3_600_000
_UNAVAILABLE: Final = 503

log = logging.getLogger(__name__)

Entry = tuple[bytes, dict[bytes, bytes]]


class Settler:
    """One dispatcher's settler."""

    def __init__(
        self, ledger: Ledger, redis_url: str, name: str, sizing: Sizing, on_settled: "Callable[[], None]"
    ) -> None:
        self._ledger = ledger
        self._redis: redis.asyncio.Redis = connect(redis_url)
        self._name = name
        self._sizing = sizing
        self._on_settled = on_settled
        self._unsettled: list[Entry] = []
        """Entries that were read, and whose changes are not on disk yet."""
        self._take_over_at = 0.0
        self._tidy_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Settle in the background from now on."""
        self._task = asyncio.create_task(forever(self._step, "settling"), name="settler")

    async def close(self) -> None:
        """Stop; what was read and not settled another dispatcher takes over, or the next one."""
        if self._task is not None:
            await cancel(self._task)
        await self._redis.aclose()

    async def _step(self) -> None:
        try:
            entries = self._unsettled or await self._read()
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self._create_group()  # the stream is new, or Redis was lost
            return
        if not entries:
            return
        self._unsettled = entries
        outcomes = [outcome for entry in entries if (outcome := _outcome(entry)) is not None]
        settled = {one.request_id: one for one in await self._settle([_ending(one) for one in outcomes])}
        for outcome in outcomes:
            if outcome.kind in {"success", "function_error"} and (one := settled.get(outcome.request_id)):
                self._sizing.note_duration(one.function, outcome.init_ms + outcome.duration_ms)
        self._unsettled = []
        self._on_settled()
        if len(entries) > 1:
            await asyncio.sleep(_GATHER_S)
        numbers = [number for number, _ in entries]
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xack(keys.OUTCOMES, _GROUP, *numbers)
            pipe.xdel(keys.OUTCOMES, *numbers)
            await pipe.execute()

    async def _settle(self, endings: list[Ending]) -> list[Settled]:
        """Settle all together; or, when one can't be stored, each by itself, so that it takes no other with it."""
        try:
            return await self._ledger.settle(endings)
        except Exception as error:
            if isinstance(error, AwsError) and error.status == _UNAVAILABLE:
                raise  # the database is away, and will be back
        settled: list[Settled] = []
        for ending in endings:
            try:
                settled += await self._ledger.settle([ending])
            except Exception as error:
                if isinstance(error, AwsError) and error.status == _UNAVAILABLE:
                    raise
                # Its event is fed again when nothing has come of this attempt for a while.
                log.exception("an outcome can't be settled", extra={"request_id": ending.request_id})
        return settled

    async def _read(self) -> list[Entry]:
        if time.monotonic() > self._take_over_at:
            self._take_over_at = time.monotonic() + _TAKE_OVER_S
            found = await result_of(
                self._redis.xautoclaim(keys.OUTCOMES, _GROUP, self._name, _ABANDONED_MS, count=_MANY)
            )
            await self._tidy()
            if abandoned := [entry for entry in found[1] if entry and entry[1]]:
                return abandoned
        found = await result_of(
            self._redis.xreadgroup(_GROUP, self._name, {keys.OUTCOMES: ">"}, count=_MANY, block=_WAIT_MS)
        )
        return found[0][1] if found else []

    async def _tidy(self) -> None:
        """Forget readers that are long gone; a reader that left something unsettled is still needed to find that."""
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + _TIDY_S
        for reader in await result_of(self._redis.xinfo_consumers(keys.OUTCOMES, _GROUP)):
            if reader["idle"] > _GONE_MS and not reader["pending"]:
                await result_of(self._redis.xgroup_delconsumer(keys.OUTCOMES, _GROUP, reader["name"]))

    async def _create_group(self) -> None:
        try:
            await result_of(self._redis.xgroup_create(keys.OUTCOMES, _GROUP, id="0", mkstream=True))
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # another dispatcher created it
                raise


def _outcome(entry: Entry) -> Outcome | None:
    """The outcome in an entry; None when another version of Everwarm wrote it, and then its event is fed again after a while."""
    try:
        return decode_outcome(entry[1][b"o"])
    except (VersionMismatch, msgspec.DecodeError, KeyError) as error:
        log.error("an outcome can't be read: %s", error)
        return None


def _ending(outcome: Outcome) -> Ending:
    error_type, message = outcome.error_type, outcome.message
    if outcome.kind == "function_error":
        found, message = error_document(outcome.payload)
        # Clients that send no header of their own give every error the same type.
        error_type = found if error_type in {"", "Unhandled"} and found else error_type
    return Ending(
        request_id=outcome.request_id,
        attempt=outcome.attempt,
        kind=outcome.kind,
        started_ms=outcome.ended_ms - int(outcome.duration_ms),
        ended_ms=outcome.ended_ms,
        worker=outcome.worker,
        environment=outcome.environment,
        version=outcome.version,
        error_type=storable(error_type),
        error_message=storable(message),
        log_tail=outcome.log_tail,
        result=outcome.payload,
    )
