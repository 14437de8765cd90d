"""Modes ``docker`` and ``docker-reuse`` with channel stay-open: the relay is the first process of a container, and starts the
runtime there. In docker an environment takes one invocation and is destroyed; in docker-reuse it is kept.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from workers.contract.messages import FunctionSpec
from workers.environments.environment import Environment
from workers.function_logs import Journal, Shipper
from workers.link.answers import ApiRequest
from workers.link.container_relay import AttachedRelay
from workers.link.loop_thread import LoopThread
from workers.modes.docker.sandboxes import Box, Boxes
from workers.modes.docker.spec import RELAY
from workers.settings import WorkerSettings

#: A relay that does not answer in this time is in a paused container, or its machine is far too busy to be given work.
_ANSWER_S: Final = 2.0
#: An engine takes longer to pause a container (12 ms and more), and asking costs as much as the rest of a hand-out.
_FRESH_S: Final = 0.005
_CLOSE_S: Final = 5.0

log = logging.getLogger(__name__)


class DockerStarter:
    """Starts environments as containers."""

    def __init__(
        self,
        settings: WorkerSettings,
        loop: LoopThread,
        shipper: Shipper,
        on_api: Callable[[Environment, ApiRequest], None],
        boxes: Boxes,
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._shipper = shipper
        self._on_api = on_api
        self._boxes = boxes
        self._held: dict[str, tuple[Box, AttachedRelay]] = {}
        self.single_use = settings.mode == "docker"
        self.hand_back_s = 0.0 if self.single_use else 0.05

    def prepare(self, spec: FunctionSpec, code_url: str) -> str:
        """Have the image here, and what is put on it."""
        return self._boxes.prepare(spec, code_url)

    def start(self, environment: Environment, code_url: str) -> None:
        """Create, attach and start its container, and send its relay START. Raises ``StartError``; nothing is left then."""
        relay = new_relay(environment, self._on_api, environment.on_exit)
        environment.relay = relay
        environment.journal = new_journal(environment, relay, self._loop, self._shipper, self._settings)

        def run(box: Box) -> None:
            frame = self._boxes.start_frame(environment, box)
            stream = self._boxes.engine.attach(box.container)
            self._loop.submit(relay.connect(stream, box.lane.listen() if box.lane else None)).result()
            self._loop.call(relay.link.start, frame)
            self._boxes.engine.start(box.container)
            self._held[environment.id] = (box, relay)

        self._boxes.make(environment, code_url, (RELAY,), run, with_lane=True)

    def activate(self, environment: Environment) -> Callable[[], bool]:
        """Ask its relay, unless that has just spoken: a paused container says nothing of itself."""
        if time.monotonic() - environment.last_use < _FRESH_S:
            return lambda: environment.usable
        return environment.answers(_ANSWER_S)

    def after_invocation(self, environment: Environment, left_s: float) -> bool:
        """Whether the runtime asks for the next event in time, and may have one."""
        return environment.wait_idle(left_s) and not self.single_use

    def destroy(self, environment: Environment) -> None:
        """End its container, in the background."""
        held = self._held.pop(environment.id, None)
        if held is not None:
            self._loop.submit(self._dispose(*held))

    async def _dispose(self, box: Box, relay: AttachedRelay) -> None:
        await self._boxes.dispose(box, ended=await relay.close(_CLOSE_S))

    def ready(self, knows: Callable[[str], bool]) -> None:
        """Look for containers that are left over."""
        self._boxes.ready(knows)

    def close(self) -> None:
        """Wait until all are gone; every environment was destroyed before."""
        settle(self._loop)
        self._boxes.close()


def new_relay(
    environment: Environment,
    on_api: Callable[[Environment, ApiRequest], None],
    on_exit: Callable[..., None],
) -> AttachedRelay:
    """The relay of an environment, tied to it."""
    return AttachedRelay(
        on_log=environment.on_log,
        on_idle=environment.on_idle,
        on_exit=on_exit,
        on_api=lambda request: on_api(environment, request),
    )


def new_journal(
    environment: Environment, relay: AttachedRelay, loop: LoopThread, shipper: Shipper, settings: WorkerSettings
) -> Journal:
    """Its journal, which slows the relay down when logs can't be sent."""
    return Journal(
        shipper,
        environment.spec,
        lambda: loop.call(relay.pause_reading),
        lambda: loop.call(relay.resume_reading),
        settings.truncate_stdout,
    )


def settle(loop: LoopThread) -> None:
    """Wait for the destructions under way on the links' loop."""

    async def others() -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*tasks, return_exceptions=True)

    loop.submit(others()).result(30)
