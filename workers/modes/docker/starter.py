"""Modes ``docker`` and ``docker-reuse`` with channel stay-open: the relay is the first process of a container, and starts the
runtime there. In docker an environment takes one invocation and is destroyed; in docker-reuse it is kept.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from workers.contract.messages import FunctionSpec
from workers.environments.environment import Environment
from workers.link.container_relay import ContainerRelay
from workers.link.loop_thread import LoopThread
from workers.modes.docker.relays import ContainerRelays
from workers.modes.docker.sandboxes import ContainerSandbox, ContainerSandboxes
from workers.modes.docker.spec import RELAY
from workers.settings import WorkerSettings

#: A relay that does not answer in this time is in a paused container, or its machine is far too busy to be given work.
_ANSWER_S: Final = 2.0
#: An engine takes longer to pause a container (12 ms and more), and asking costs as much as the rest of a hand-out.
_FRESH_S: Final = 0.005
_CLOSE_S: Final = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Resources:
    """What an environment has as long as it lives."""

    sandbox: ContainerSandbox
    relay: ContainerRelay


class DockerStarter:
    """Starts environments as containers."""

    def __init__(
        self, settings: WorkerSettings, loop: LoopThread, relays: ContainerRelays, sandboxes: ContainerSandboxes
    ) -> None:
        self._loop = loop
        self._relays = relays
        self._sandboxes = sandboxes
        self._resources: dict[str, _Resources] = {}
        self.single_use = settings.mode == "docker"
        self.hand_back_s = 0.0 if self.single_use else 0.05

    def prepare(self, spec: FunctionSpec, code_url: str) -> str:
        """Have the function's image here, and what is put on it. Raises ``StartError``."""
        return self._sandboxes.prepare(spec, code_url)

    def start(self, environment: Environment, code_url: str) -> None:
        """Create, attach and start its container, and send its relay START. Raises ``StartError``; nothing is left then."""
        relay = self._relays.attach_new(environment, environment.on_exit)

        def run(sandbox: ContainerSandbox) -> None:
            frame = self._sandboxes.start_frame(environment, sandbox)
            stream = self._sandboxes.engine.attach(sandbox.container)
            listener = sandbox.relay_socket.listen() if sandbox.relay_socket else None
            self._loop.submit(relay.connect(stream, listener)).result()
            self._loop.call(relay.link.start, frame)
            self._sandboxes.engine.start(sandbox.container)
            self._resources[environment.id] = _Resources(sandbox, relay)

        self._sandboxes.make(environment, code_url, (RELAY,), run, with_socket=True)

    def activate(self, environment: Environment) -> Callable[[], bool]:
        """Ask its relay, unless that has just spoken: a paused container says nothing of itself."""
        if time.monotonic() - environment.last_use < _FRESH_S:
            return lambda: environment.usable
        return environment.ping(_ANSWER_S)

    def after_invocation(self, environment: Environment, left_s: float) -> bool:
        """Whether the runtime asks for the next event in time, and may have one."""
        return environment.wait_idle(left_s) and not self.single_use

    def destroy(self, environment: Environment) -> None:
        """End its container, in the background."""
        resources = self._resources.pop(environment.id, None)
        if resources is not None:
            self._loop.submit(self._dispose(resources))

    async def _dispose(self, resources: _Resources) -> None:
        await self._sandboxes.dispose(resources.sandbox, ended=await resources.relay.close(_CLOSE_S))

    def ready(self, knows: Callable[[str], bool]) -> None:
        """Look for containers that are left over."""
        self._sandboxes.ready(knows)

    def close(self) -> None:
        """Wait until all are gone; every environment was destroyed before."""
        self._loop.settle()
        self._sandboxes.close()
