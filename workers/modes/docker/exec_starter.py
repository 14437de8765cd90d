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
from workers.function_logs import Shipper
from workers.link.answers import ApiRequest, Exited, LinkBroken
from workers.link.container_relay import Attached, AttachedRelay
from workers.link.loop_thread import LoopThread
from workers.modes.docker.sandboxes import Box, Boxes
from workers.modes.docker.spec import RELAY
from workers.modes.docker.starter import new_journal, new_relay, settle
from workers.settings import WorkerSettings

_CLOSE_S: Final = 5.0

log = logging.getLogger(__name__)


class _Kept:
    """An environment's container: the stream to its waiting process, and the relay of the invocation under way."""

    def __init__(self, environment: Environment) -> None:
        self.box: Box | None = None
        self.ended = False
        self.relay: AttachedRelay | None = None
        self.stream = Attached(lambda _: None, self._on_end)
        self._environment = environment

    def _on_end(self) -> None:
        self.ended = True
        self._environment.on_exit(LinkBroken("the container ended"))


class ExecStarter:
    """Starts a container an environment, and a process in it an invocation."""

    single_use = True
    hand_back_s = 0.2

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
        self._kept: dict[str, _Kept] = {}

    def prepare(self, spec: FunctionSpec, code_url: str) -> str:
        """Have the image here, and what is put on it."""
        return self._boxes.prepare(spec, code_url)

    def start(self, environment: Environment, code_url: str) -> None:
        """Create and start its container, and the first process in it. Raises ``StartError``; nothing is left then."""
        kept = _Kept(environment)

        def run(box: Box) -> None:
            kept.box = box
            stream = self._boxes.engine.attach(box.container)
            self._loop.submit(Attached.open(stream, kept.stream)).result()
            self._boxes.engine.start(box.container)
            self._execute(environment, kept)
            self._kept[environment.id] = kept

        self._boxes.make(environment, code_url, (RELAY, "--idle"), run)

    def _execute(self, environment: Environment, kept: _Kept) -> None:
        """A relay in the container, and START for it. Raises ``EngineError``."""
        box = kept.box
        assert box is not None, "the container was made"
        relay = new_relay(environment, self._on_api, environment.on_process_exit)
        frame = self._boxes.start_frame(environment, box)
        environment.journal = new_journal(environment, relay, self._loop, self._shipper, self._settings)
        user = self._settings.docker_flags.user or "0:0"
        stream = self._boxes.engine.execute(box.container, (RELAY,), user, "/")
        environment.begin()
        kept.relay = environment.relay = relay
        self._loop.submit(relay.connect(stream)).result()
        self._loop.call(relay.link.start, frame)

    def activate(self, environment: Environment) -> Callable[[], bool]:
        """Start the invocation's process; a container that is paused or gone refuses."""

        def execute() -> bool:
            kept = self._kept.get(environment.id)
            if kept is None or kept.ended:
                return False
            try:
                self._execute(environment, kept)
            except EngineError as error:
                log.info("a container refuses", extra={"environment": environment.id, "error": str(error)})
                return False
            return True

        return execute

    def after_invocation(self, environment: Environment, left_s: float) -> bool:
        """End the process; the container is idle then."""
        kept = self._kept.get(environment.id)
        if kept is None or kept.relay is None:
            return False
        environment.wait_idle(left_s)
        if not environment.gone.is_set():
            environment.kill()
        if isinstance(environment.end, Exited) and environment.end.disk_full:
            return False  # /tmp would be full for the next invocation as well
        relay, kept.relay = kept.relay, None
        if kept.ended or not self._loop.submit(relay.close(_CLOSE_S)).result():
            return False
        environment.rest()
        return not kept.ended

    def destroy(self, environment: Environment) -> None:
        """End its container, in the background."""
        kept = self._kept.pop(environment.id, None)
        if kept is not None:
            self._loop.submit(self._dispose(kept))

    async def _dispose(self, kept: _Kept) -> None:
        if kept.relay is not None:
            await kept.relay.close(0.0)
        ended = await kept.stream.close(_CLOSE_S)
        if kept.box is not None:
            await self._boxes.dispose(kept.box, ended=ended)

    def ready(self, knows: Callable[[str], bool]) -> None:
        """Look for containers that are left over."""
        self._boxes.ready(knows)

    def close(self) -> None:
        """Wait until all are gone; every environment was destroyed before."""
        settle(self._loop)
        self._boxes.close()
