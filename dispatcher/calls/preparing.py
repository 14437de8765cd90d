"""Making new and changed functions ready in the docker modes: every worker of the function's mode has its engine pull and
look at the image, so that no invocation waits for that, and a missing image is a state of the function.

A request goes into each worker's mailbox, and the answers come in a list of its own. A worker that dies meanwhile is not
waited for; one that starts later finds out by its first invocation.
"""

import asyncio
import logging
import time
from typing import Final

from redis import RedisError

from dispatcher.calls.fleet import Fleet
from dispatcher.calls.placement import mode_of
from dispatcher.catalog.functions import Failure, Ready
from dispatcher.catalog.resolving import Target
from dispatcher.code.store import CodeStore
from workers.contract.messages import Mode

#: A server that was just started may be called before its workers are.
_WORKERS_S: Final = 5.0
_TICK_S: Final = 0.2
#: Pulling an image over a slow line.
_PULL_S: Final = 900.0

log = logging.getLogger(__name__)


class Preparing:
    """What the catalog calls to have a function made ready: see the module's docstring.

    ``code`` and ``fleet`` come later, because both need what the catalog knows.
    """

    def __init__(self, code: "asyncio.Future[CodeStore]", fleet: "asyncio.Future[Fleet]", default: Mode) -> None:
        self._code = code
        self._fleet = fleet
        self._default = default

    async def __call__(self, target: Target) -> Ready | Failure:
        """Make ``target`` ready, and say how that ended. Redis' errors are waited out: the function stays Pending meanwhile."""
        fleet, code = await asyncio.shield(self._fleet), await asyncio.shield(self._code)
        if not target.spec.image_uri and mode_of(target, self._default, fleet.modes) == "local":
            return Ready()
        mode, workers = await self._await_workers(target, fleet)
        if not workers:
            return self._without_workers(target, mode)
        url = code.signed_path(target.code_sha256, _PULL_S) if target.code_sha256 else ""
        while True:
            try:
                return await self._ask_workers(target, fleet, workers, url)
            except (RedisError, OSError) as error:
                log.info("a function waits for Redis to be made ready", extra={"error": str(error)})
                await asyncio.sleep(_TICK_S)

    async def _await_workers(self, target: Target, fleet: Fleet) -> tuple[Mode, list[str]]:
        deadline = time.monotonic() + _WORKERS_S
        while True:
            mode = mode_of(target, self._default, fleet.modes)
            found = fleet.workers_of(mode)
            if found or time.monotonic() > deadline:
                return mode, found
            await asyncio.sleep(_TICK_S)

    @staticmethod
    def _without_workers(target: Target, mode: Mode) -> Ready | Failure:
        if not target.spec.image_uri:
            return Ready()  # Whoever starts a worker sees to its runtime images.
        return Failure(
            "InvalidConfiguration",
            f"Container images need a docker mode, and no living worker serves {mode}: "
            f"start one (everwarm worker --mode {mode}), then update the function.",
        )

    async def _ask_workers(self, target: Target, fleet: Fleet, workers: list[str], url: str) -> Ready | Failure:
        answers = await fleet.prepare_function(target.spec, url, workers, _PULL_S)
        for answer in answers:
            if answer.code:
                return Failure(answer.code, answer.reason)
        return Ready(image_id=next((answer.image_id for answer in answers if answer.image_id), ""))
