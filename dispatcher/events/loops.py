"""How the loops of this package run: what they stand on may be gone for a while, and then they go on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from redis import RedisError

from dispatcher.wire.errors import AwsError

_PAUSE_S: Final = 0.3
_AFTER_BUG_S: Final = 2.0

log = logging.getLogger(__name__)


async def forever(step: Callable[[], Awaitable[None]], what: str) -> None:
    """Run ``step`` again and again; what it stands on may be gone for a while."""
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
