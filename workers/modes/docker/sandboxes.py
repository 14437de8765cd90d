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
from dataclasses import dataclass, replace
from typing import Final

from workers import engine as containers
from workers.contract import keys
from workers.contract.messages import FunctionSpec
from workers.disk.code_cache import CodeUnavailable
from workers.disk.run_directory import RunDirectory
from workers.engine import Engine, EngineError, EngineInfo, EngineUnavailable, Image, NoSuch
from workers.environments.environment import Environment
from workers.environments.starter import StartError
from workers.link.answers import Start
from workers.link.loop_thread import LoopThread
from workers.modes.docker.code_mounts import Contents, Packer
from workers.modes.docker.image_cache import Images
from workers.modes.docker.network_pool import Holding, Namespaces, Networks
from workers.modes.docker.reaper import Reaper
from workers.modes.docker.relay_socket import SOCKET, Lane
from workers.modes.docker.spec import container_spec, program, start_frame
from workers.redis_client import Store
from workers.relay.binaries import RelayMissing
from workers.settings import WorkerSettings

_MAKING_NETWORK_S: Final = 10.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Box:
    """One container and what is held for it."""

    container: str
    image: Image
    contents: Contents
    namespace: Holding | None
    own_network: bool
    lane: Lane | None
    """Its first process is a relay that may use it."""


class Boxes:
    """The containers of one worker, on one engine."""

    def __init__(
        self,
        settings: WorkerSettings,
        loop: LoopThread,
        store: Store,
        engine: Engine,
        run: RunDirectory,
        on_failure: Callable[[BaseException], None],
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
        self._on_failure = on_failure
        self._reaper: Reaper | None = None
        self.images = Images(engine, settings, self._info.architecture)
        self._lanes = run.path / "lanes"
        self._lanes.mkdir(mode=0o700)
        self._packer = Packer(engine, run.path, settings.remote_docker, self.labels)
        joinable = not settings.docker_flags.ports and settings.docker_flags.network != "host"
        self._namespaces = Namespaces(
            engine,
            loop,
            lambda: self._packer.relay_image(self._info.architecture),
            self.networks,
            self.labels,
            settings.max_environments if joinable else 0,
            settings.concurrency,
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
                    # One worker at a time: while two networks have one name the engine starts no container on either.
                    with self._store.client.lock(keys.NETWORK_MAKER, timeout=_MAKING_NETWORK_S):
                        self._own_network = self.engine.ensure_network(self._network_name(), labels)
                    names = (self._own_network,)
                self._networks = Networks(tuple(names), self._settings.docker_dns, flags.hosts)
            return self._networks

    def start_frame(self, environment: Environment, box: Box) -> Start:
        """What a relay in the box is to start."""
        return start_frame(
            environment.spec,
            environment.id,
            box.image,
            self._settings,
            own_network=box.own_network,
            limited=self._info.limits_memory,
            lane=SOCKET if box.lane else "",
        )

    def prepare(self, spec: FunctionSpec, code_url: str) -> str:
        """Have the function's image here, and the layer on it where there must be one; the image's id. Raises :class:`StartError`."""
        with _as_start_error(self, spec):
            self._namespaces.fill()  # it will be called soon
            image = self.images.prepare(spec)
            if self._packer.remote and not spec.hot_reload_path:
                self._packer.release(self._packer.provide(spec, image, self._settings.endpoint + code_url))
            return image.id

    def _network_name(self) -> str:
        return f"everwarm-{self.installation}"

    def make(
        self,
        environment: Environment,
        code_url: str,
        command: Sequence[str],
        run: Callable[[Box], None],
        *,
        with_lane: bool = False,
    ) -> Box:
        """Create the environment's container; ``run`` is called with the box, attaches and starts it.

        Raises :class:`StartError`; nothing is left then.
        """
        with _as_start_error(self, environment.spec):
            image = self.images.find(environment.spec)
            contents = self._packer.provide(environment.spec, image, self._settings.endpoint + code_url)
            box = Box("", image, contents, self._namespaces.take(), own_network=True, lane=None)
            try:
                if with_lane and not self._packer.remote:
                    box.lane = Lane(self._lanes, environment.id)
                self._fill(box, environment, command, run)
            except BaseException:
                self._discard(box)
                raise
        return box

    def _fill(self, box: Box, environment: Environment, command: Sequence[str], run: Callable[[Box], None]) -> None:
        networks = self.networks()
        network = f"container:{box.namespace.container}" if box.namespace else networks.names[0]
        box.own_network = network != "host"
        spec = container_spec(
            environment.spec,
            image=box.contents.image,
            command=command,
            labels={**self.labels(), containers.ENVIRONMENT: environment.id},
            mounts=[*box.contents.mounts, *([box.lane.mount] if box.lane else [])],
            network=network,
            settings=self._settings,
            host=self._info.architecture,
        )
        # The engine makes the working directory where the image has none.
        box.container = self.engine.create(replace(spec, directory=program(environment.spec, box.image)[2]))
        environment.lease.container = box.container[:12]
        if box.namespace is None:
            for other in networks.names[1:]:
                self.engine.join(other, box.container)
        run(box)

    def _discard(self, box: Box) -> None:
        self._release(box, gone=self.remove(box) if box.container else True)

    def _release(self, box: Box, *, gone: bool) -> None:
        if box.lane is not None:
            box.lane.remove()
        if box.namespace is not None:
            self._namespaces.give_back(box.namespace, clean=gone)
        self._packer.release(box.contents)

    def remove(self, box: Box) -> bool:
        """By force; whether it is gone."""
        try:
            self.engine.remove(box.container)
        except EngineError as error:
            log.warning(
                "a container could not be removed; the reaper will try again",
                extra={"container": box.container, "error": str(error)},
            )
            return False
        return True

    async def dispose(self, box: Box, *, ended: bool) -> None:
        """Its first process was told to end; on the links' loop. ``ended``: and it did, otherwise it is removed by force."""
        await asyncio.get_running_loop().run_in_executor(None, self._dispose, box, ended)

    def _dispose(self, box: Box, ended: bool) -> None:
        self._release(box, gone=ended or self.remove(box))

    def ready(self, knows: Callable[[str], bool]) -> None:
        """Look for containers that are left over, in the background."""
        self._reaper = Reaper(
            self.engine, self._store, lambda: self.installation, self._settings.name, knows, self._on_failure
        )
        self._reaper.start()

    def close(self) -> None:
        """Every box was given up before."""
        if self._reaper is not None:
            self._reaper.stop()
        self._namespaces.close()
        if self._reaper is not None:
            self._reaper.remove_own()
        self._packer.close()
        if self._own_network:
            self.engine.remove_network(self._own_network)  # unless another worker uses it
        elif self._installation:
            self.engine.remove_network(self._network_name(), 0.0)  # which a killed one may have left
        self.engine.close()
        self._run.close()


_GONE: Final = (RelayMissing, OSError)


@contextmanager
def _as_start_error(boxes: Boxes, spec: FunctionSpec) -> Iterator[None]:
    try:
        yield
    except NoSuch as error:
        boxes.images.forget(spec)
        raise StartError(f"The container could not be made: {error}") from error
    except CodeUnavailable as error:
        raise StartError(str(error)) from error
    except EngineUnavailable as error:
        raise StartError(f"The function can't be started: {error}") from error
    except EngineError as error:
        code = "InvalidParameterValueException" if spec.hot_reload_path else "ServiceException"
        raise StartError(f"The container could not be made: {error}", code) from error
    except _GONE as error:
        raise StartError(f"The function's environment could not be made: {error}") from error
