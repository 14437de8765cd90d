"""The containers of functions: everything that docker, stay-open and docker-exec have in common.

A box is a container with what it needs: the image with code and relay in place, a network namespace, and the stream to its
first process. What that process is (a relay that runs the function, or one that waits for others to be executed beside
it) is the modes' business.
"""

import asyncio
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from workers import containers
from workers.containers import Engine, EngineError, EngineInfo, EngineUnavailable, Image, NoSuch
from workers.contract import keys
from workers.environment import Environment
from workers.environments import StartError
from workers.loop import LoopThread
from workers.modes.container import container_spec
from workers.modes.contents import Contents, Packer
from workers.modes.images import Images
from workers.modes.namespaces import Holding, Namespaces, Networks
from workers.modes.run_directory import RunDirectory
from workers.process import RelayMissing
from workers.settings import WorkerSettings
from workers.store import Store, Unavailable

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Box:
    """One container and what is held for it."""

    container: str
    image: Image
    contents: Contents
    namespace: Holding | None
    own_network: bool


class Boxes:
    """The containers of one worker, on one engine."""

    def __init__(
        self, settings: WorkerSettings, loop: LoopThread, store: Store, engine: Engine, run: RunDirectory
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._store = store
        self._run = run
        self.engine = engine
        self._info: EngineInfo = engine.info()
        self._installation = ""
        self._lock = threading.Lock()
        self._networks: Networks | None = None
        self._own_network = ""
        self.images = Images(engine, settings, self._info.architecture)
        self._packer = Packer(engine, run.path, settings.remote_docker)
        joinable = not settings.docker_flags.ports and settings.docker_flags.network != "host"
        self._namespaces = Namespaces(
            engine,
            loop,
            lambda: self._packer.relay_image(self._info.architecture),
            self.networks,
            self.labels,
            settings.concurrency if joinable else 0,
        )

    @property
    def installation(self) -> str:
        """What tells this Everwarm's containers from another's on the same engine: all its workers know the same secret."""
        if not self._installation:
            secret = self._store.client.get(keys.SECRET)
            if not isinstance(secret, bytes):
                raise StartError("The dispatcher has not been here yet, so this worker does not know its installation.")
            self._installation = hashlib.sha256(b"everwarm installation\n" + secret).hexdigest()[:12]
        return self._installation

    def labels(self) -> dict[str, str]:
        """Of every container that this worker makes."""
        return {containers.INSTALLATION: self.installation, containers.WORKER: self._settings.name}

    def networks(self) -> Networks:
        """Where containers are connected; the own network is made when it is missing."""
        with self._lock:
            if self._networks is None:
                flags = self._settings.docker_flags
                names = (flags.network,) if flags.network else self._settings.docker_networks
                if not names:
                    labels = {containers.INSTALLATION: self.installation}
                    self._own_network = self.engine.ensure_network(f"everwarm-{self.installation}", labels)
                    names = (self._own_network,)
                self._networks = Networks(tuple(names), self._settings.docker_dns, flags.hosts)
            return self._networks

    def make(
        self, environment: Environment, code_url: str, command: Sequence[str], run: Callable[[Box, str], None]
    ) -> Box:
        """Create the environment's container; ``run`` is called with the box and the network mode, attaches and starts it.

        Raises :class:`StartError`; nothing is left then.
        """
        with _as_start_error(self, environment):
            image = self.images.find(environment.spec)
            contents = self._packer.provide(environment.spec, image, self._settings.endpoint + code_url)
            box = Box("", image, contents, self._namespaces.take(), own_network=True)
            try:
                self._fill(box, environment, command, run)
            except BaseException:
                self._discard(box)
                raise
        return box

    def _fill(
        self, box: Box, environment: Environment, command: Sequence[str], run: Callable[[Box, str], None]
    ) -> None:
        networks = self.networks()
        network = f"container:{box.namespace.container}" if box.namespace else networks.names[0]
        box.own_network = network != "host"
        spec = container_spec(
            environment.spec,
            image=box.contents.image,
            command=command,
            labels={**self.labels(), containers.ENVIRONMENT: environment.id},
            mounts=box.contents.mounts,
            network=network,
            settings=self._settings,
            host=self._info.architecture,
        )
        box.container = self.engine.create(spec)
        environment.lease.container = box.container[:12]
        if box.namespace is None:
            for other in networks.names[1:]:
                self.engine.join(other, box.container)
        run(box, network)

    def _discard(self, box: Box) -> None:
        if box.container:
            self.remove(box)
        if box.namespace is not None:
            self._namespaces.give_back(box.namespace)
        self._packer.release(box.contents)

    def remove(self, box: Box) -> None:
        """By force."""
        try:
            self.engine.remove(box.container)
        except EngineError as error:
            log.warning(
                "a container could not be removed; the reaper will try again",
                extra={"container": box.container, "error": str(error)},
            )

    async def give_up(self, box: Box, *, ended: bool) -> None:
        """Its first process was told to end; on the links' loop. ``ended``: and it did, otherwise it is removed by force."""
        await asyncio.get_running_loop().run_in_executor(None, self._give_up, box, ended)

    def _give_up(self, box: Box, ended: bool) -> None:
        try:
            if not ended:
                self.remove(box)
        finally:
            if box.namespace is not None:
                self._namespaces.give_back(box.namespace)
            self._packer.release(box.contents)

    def warm_up(self) -> None:
        """Have ready what the first container would wait for, in the background."""
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()

    def _warm_up(self) -> None:
        try:
            log.debug("code reaches containers by %s", "image layers" if self._packer.remote else "bind mounts")
        except (EngineError, StartError, *_GONE, *Unavailable) as error:
            log.info("nothing is prepared for containers yet", extra={"error": str(error)})
            return
        self._namespaces.fill()

    def close(self) -> None:
        """Every box was given up before."""
        self._namespaces.close()
        self._packer.close()
        if self._own_network:
            self.engine.remove_network(self._own_network)  # unless another worker uses it
        self.engine.close()
        self._run.close()


_GONE: Final = (RelayMissing, OSError)


@contextmanager
def _as_start_error(boxes: Boxes, environment: Environment) -> Iterator[None]:
    try:
        yield
    except NoSuch as error:
        boxes.images.forget(environment.spec)
        raise StartError(f"The container could not be made: {error}") from error
    except EngineUnavailable as error:
        raise StartError(f"The function can't be started: {error}") from error
    except EngineError as error:
        code = "InvalidParameterValueException" if environment.spec.hot_reload_path else "ServiceException"
        raise StartError(f"The container could not be made: {error}", code) from error
    except _GONE as error:
        raise StartError(f"The function's environment could not be made: {error}") from error
