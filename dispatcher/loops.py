"""The dispatcher's background tasks: loops that outlast what they stand on, and how a task is ended."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis import RedisError

from dispatcher.wire.errors import AwsError

_CANCEL_AGAIN_S: Final = 0.2
_PAUSE_S: Final = 0.3
_AFTER_BUG_S: Final = 2.0

log = logging.getLogger(__name__)


async def forever(step: Callable[[], Awaitable[None]], what: str) -> None:
    """Run ``step`` again and again; Redis, the database or the disk may be gone for a while.

    ``what`` names the loop in the log.
    """
    told = False
    while True:
        try:
            await step()
            told = False
        except (RedisError, OSError, AwsError) as error:
            if not told:
                log.warning("%s waits: %s", what, error)
            told = True
            await asyncio.sleep(_PAUSE_S)
        except Exception:
            # An error of ours: loud, and no reason to leave everything else undone.
            log.exception("%s failed", what)
            await asyncio.sleep(_AFTER_BUG_S)


async def cancel(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks and wait for their end.

    One request to cancel is not enough: redis-py (8.1, seen once in ten stops) swallows a cancellation that meets the
    end of its own timeout, and a loop around the command would go on for ever.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
