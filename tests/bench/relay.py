"""The relay's round trip alone: an event to a runtime that echoes it, and its answer back, on an event loop."""

import asyncio
import time

from tests.services.relay import ECHO, program, public_python
from workers.link.answers import Event, FunctionIdentity, Response, Start
from workers.link.process_relay import spawn

_ANSWER_S = 10


async def round_trips(calls: int) -> list[float]:
    """Milliseconds of each of ``calls``, from handing the event over to its answer."""
    loop = asyncio.get_running_loop()
    idle = asyncio.Event()
    relay = await spawn(on_log=lambda _data: None, on_idle=idle.set, on_exit=lambda _end: idle.set())
    try:
        relay.link.start(
            Start(
                argv=program(ECHO, public_python()),
                env={"PATH": "/usr/bin:/bin"},
                cwd="/",
                function=FunctionIdentity("bench", "$LATEST", "handler"),
            )
        )
        await asyncio.wait_for(asyncio.wrap_future(relay.link.started), _ANSWER_S)
        took = []
        for number in range(calls):
            idle.clear()
            event = Event(
                request_id=f"bench-{number}", deadline_ms=0, invoked_arn="arn", payload=b'{"message":"hello"}'
            )
            answered: asyncio.Future[object] = loop.create_future()
            began = time.perf_counter()
            relay.link.invoke(event).add_done_callback(lambda found, to=answered: to.set_result(found.result()))  # type: ignore[misc]
            answer = await asyncio.wait_for(answered, _ANSWER_S)
            took.append((time.perf_counter() - began) * 1000)
            assert isinstance(answer, Response), answer
            await asyncio.wait_for(idle.wait(), _ANSWER_S)
        return took
    finally:
        await relay.close()
