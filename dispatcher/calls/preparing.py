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

from dispatcher.calls.sync_calls import Queue
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


def mode_of(target: Target, default: Mode, living: frozenset[str]) -> Mode:
    """Where a function runs: by its tag, else the default; a container image always in a docker mode."""
    image = bool(target.spec.image_uri)
    if target.mode is not None and not (image and target.mode == "local"):
        return target.mode
    if not image or default != "local":
        return default
    return "docker" if "docker" in living and "docker-reuse" not in living else "docker-reuse"


class Preparing:
    """See the module's docstring; it waits for its queue, which needs what the catalog knows."""

    def __init__(self, code: "asyncio.Future[CodeStore]", queue: "asyncio.Future[Queue]", default: Mode) -> None:
        self._code = code
        self._queue = queue
        self._default = default

    async def __call__(self, target: Target) -> Ready | Failure:
        """How it ended. Redis' errors are waited out: the function stays Pending meanwhile."""
        queue, code = await asyncio.shield(self._queue), await asyncio.shield(self._code)
        if not target.spec.image_uri and mode_of(target, self._default, queue.modes) == "local":
            return Ready()
        mode, workers = await self._workers(target, queue)
        if not workers:
            return self._nobody(target, mode)
        url = code.signed_path(target.code_sha256, _PULL_S) if target.code_sha256 else ""
        while True:
            try:
                return await self._ask(target, queue, workers, url)
            except (RedisError, OSError) as error:
                log.info("a function waits for Redis to be made ready", extra={"error": str(error)})
                await asyncio.sleep(_TICK_S)

    async def _workers(self, target: Target, queue: Queue) -> tuple[Mode, list[str]]:
        give_up = time.monotonic() + _WORKERS_S
        while True:
            mode = mode_of(target, self._default, queue.modes)
            found = queue.workers_of(mode)
            if found or time.monotonic() > give_up:
                return mode, found
            await asyncio.sleep(_TICK_S)

    @staticmethod
    def _nobody(target: Target, mode: Mode) -> Ready | Failure:
        if not target.spec.image_uri:
            return Ready()  # Whoever starts a worker sees to its runtime images.
        return Failure(
            "InvalidConfiguration",
            f"Container images need a docker mode, and no living worker serves {mode}: "
            f"start one (everwarm worker --mode {mode}), then update the function.",
        )

    async def _ask(self, target: Target, queue: Queue, workers: list[str], url: str) -> Ready | Failure:
        answers = await queue.prepare(target.spec, url, workers, _PULL_S)
        for answer in answers:
            if answer.code:
                return Failure(answer.code, answer.reason)
        return Ready(image_id=next((answer.image_id for answer in answers if answer.image_id), ""))
