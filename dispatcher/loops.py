"""Tasks in the background, and how they end."""

import asyncio
from typing import Any, Final

_PATIENCE_S: Final = 0.2


async def cancel(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks and wait for their end.

    Once is not enough: redis-py (8.1, seen once in ten stops) swallows a cancellation that meets the end of its own
    timeout, and a loop around the command would go on for ever.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_PATIENCE_S)
    await asyncio.gather(*tasks, return_exceptions=True)
