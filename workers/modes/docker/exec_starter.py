"""Mode ``docker-reuse``, channel docker-exec: the container is kept, and the whole Lambda process is started in it by
``docker exec`` for every invocation, under a relay of its own. The container's first process is a relay that only waits.

For code edited in place: each invocation reads it anew. What an invocation leaves in /tmp is there for the next; no
process is, since its relay kills what it started.
"""

import logging
from collections.abc import Callable
from typing import Final

from workers.contract.messages import FunctionSpec
from workers.engine import EngineError
from workers.environments.environment import Environment
from workers.link.answers import Exited, LinkBroken
from workers.link.container_relay import AttachedStream, ContainerRelay
from workers.link.loop_thread import LoopThread
from workers.modes.docker.relays import ContainerRelays
from workers.modes.docker.sandboxes import ContainerSandbox, ContainerSandboxes
from workers.modes.docker.spec import IDLE_RELAY, RELAY
from workers.settings import WorkerSettings

_CLOSE_S: Final = 5.0

log = logging.getLogger(__name__)


class _Resources:
    """What an environment has as long as it lives: its container, the stream to the process that waits there, and the relay
    of the invocation under way.
    """

    def __init__(self, environment: Environment, sandbox: ContainerSandbox) -> None:
        self.sandbox: Final = sandbox
        self.ended = False
        self.relay: ContainerRelay | None = None
        self.stream: Final = AttachedStream(lambda _: None, self._on_end)
        self._environment = environment

    def _on_end(self) -> None:
        self.ended = True
        self._environment.on_exit(LinkBroken("the container ended"))


class ExecStarter:
    """Starts a container an environment, and a process in it an invocation."""

    single_use = True
    hand_back_s = 0.2

    def __init__(
        self, settings: WorkerSettings, loop: LoopThread, relays: ContainerRelays, sandboxes: ContainerSandboxes
    ) -> None:
        self._user = settings.docker_flags.user or "0:0"
        self._loop = loop
        self._relays = relays
        self._sandboxes = sandboxes
        self._resources: dict[str, _Resources] = {}

    def prepare(self, spec: FunctionSpec, code_url: str) -> str:
        """Have the function's image here, and what is put on it. Raises ``StartError``."""
        return self._sandboxes.prepare(spec, code_url)

    def start(self, environment: Environment, code_url: str) -> None:
        """Create and start its container, and the first process in it. Raises ``StartError``; nothing is left then."""

        def run(sandbox: ContainerSandbox) -> None:
            resources = _Resources(environment, sandbox)
            stream = self._sandboxes.engine.attach(sandbox.container)
            self._loop.submit(AttachedStream.open(stream, resources.stream)).result()
            self._sandboxes.engine.start(sandbox.container)
            self._execute(environment, resources)
            self._resources[environment.id] = resources

        self._sandboxes.make(environment, code_url, IDLE_RELAY, run)

    def _execute(self, environment: Environment, resources: _Resources) -> None:
        """Start a relay in the container, and send it START. Raises ``EngineError``."""
        relay = self._relays.attach_new(environment, environment.on_process_exit)
        frame = self._sandboxes.start_frame(environment, resources.sandbox)
        stream = self._sandboxes.engine.execute(resources.sandbox.container, (RELAY,), self._user, "/")
        resources.relay = relay
        self._loop.submit(relay.connect(stream)).result()
        self._loop.call(relay.link.start, frame)

    def activate(self, environment: Environment) -> Callable[[], bool]:
        """Start the invocation's process; a container that is paused or gone refuses."""

        def execute() -> bool:
            resources = self._resources.get(environment.id)
            if resources is None or resources.ended:
                return False
            try:
                self._execute(environment, resources)
            except EngineError as error:
                log.info("a container refuses", extra={"environment": environment.id, "error": str(error)})
                return False
            return True

        return execute

    def after_invocation(self, environment: Environment, left_s: float) -> bool:
        """End the process; the container is idle then."""
        resources = self._resources.get(environment.id)
        if resources is None or resources.relay is None:
            return False
        environment.wait_idle(left_s)
        if not environment.gone.is_set():
            environment.kill()
        if isinstance(environment.end, Exited) and environment.end.disk_full:
            return False  # /tmp would be full for the next invocation as well
        relay, resources.relay = resources.relay, None
        if resources.ended or not self._loop.submit(relay.close(_CLOSE_S)).result():
            return False
        environment.reset()
        return not resources.ended

    def destroy(self, environment: Environment) -> None:
        """End its container, in the background."""
        resources = self._resources.pop(environment.id, None)
        if resources is not None:
            self._loop.submit(self._dispose(resources))

    async def _dispose(self, resources: _Resources) -> None:
        if resources.relay is not None:
            await resources.relay.close(0.0)
        ended = await resources.stream.close(_CLOSE_S)
        await self._sandboxes.dispose(resources.sandbox, ended=ended)

    def ready(self, knows: Callable[[str], bool]) -> None:
        """Look for containers that are left over."""
        self._sandboxes.ready(knows)

    def close(self) -> None:
        """Wait until all are gone; every environment was destroyed before."""
        self._loop.settle()
        self._sandboxes.close()
