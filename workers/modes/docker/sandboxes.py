"""The containers of functions: everything that docker, stay-open and docker-exec have in common.

A sandbox is a container with what it needs: the image with code and relay in place, and a network namespace. What its first
process is (a relay that runs the function, or one that waits for others to be executed beside it) is the modes' business.
"""

import asyncio
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from workers.contract import keys
from workers.contract.messages import FunctionSpec
from workers.disk.code_cache import CodeUnavailable
from workers.disk.run_directory import RunDirectory
from workers.engine import (
    LABEL_ENVIRONMENT,
    LABEL_INSTALLATION,
    LABEL_WORKER,
    Engine,
    EngineError,
    EngineInfo,
    EngineUnavailable,
    Image,
    NoSuch,
)
from workers.environments.environment import Environment
from workers.environments.starter import StartError
from workers.link.answers import Start
from workers.link.loop_thread import LoopThread
from workers.modes.docker.code_mounts import CodeInjector, CodeMounts
from workers.modes.docker.image_cache import ImageCache
from workers.modes.docker.network_pool import NetworkNamespace, NetworkPool, Networks
from workers.modes.docker.reaper import Reaper
from workers.modes.docker.relay_socket import SOCKET, RelaySocket
from workers.modes.docker.spec import container_spec, program, start_frame
from workers.redis_client import Store
from workers.relay.binaries import RelayMissing
from workers.settings import WorkerSettings

_MAKING_NETWORK_S: Final = 10.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ContainerSandbox:
    """One container and what it takes up."""

    container: str
    image: Image
    code: CodeMounts
    namespace: NetworkNamespace | None
    own_network: bool
    relay_socket: RelaySocket | None
    """Where the relay that is its first process can reach the worker."""


class ContainerSandboxes:
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
        self.images = ImageCache(engine, settings, self._info.architecture)
        self._sockets = run.path / "sockets"
        self._sockets.mkdir(mode=0o700)
        self._injector = CodeInjector(engine, run.path, settings.remote_docker, self.labels)
        joinable = not settings.docker_flags.ports and settings.docker_flags.network != "host"
        self._network_pool = NetworkPool(
            engine,
            loop,
            lambda: self._injector.relay_image(self._info.architecture),
            self.networks,
            self.labels,
            settings.max_environments if joinable else 0,
            settings.concurrency,
        )

    @property
    def installation(self) -> str:
        """The word that tells this Everwarm's containers from another's on the same engine: all its workers know the same secret."""
        if not self._installation:
            secret = self._store.client.get(keys.SECRET)
            if not isinstance(secret, bytes):
                raise StartError("The dispatcher has not been here yet, so this worker does not know its installation.")
            self._installation = hashlib.sha256(b"everwarm installation\n" + secret).hexdigest()[:12]
        return self._installation

    def labels(self) -> dict[str, str]:
        """The labels of every container that this worker makes."""
        return {LABEL_INSTALLATION: self.installation, LABEL_WORKER: self._settings.name}

    def networks(self) -> Networks:
        """Where containers are connected; the own network is made when it is missing."""
        with self._lock:
            if self._networks is None:
                flags = self._settings.docker_flags
                names = (flags.network,) if flags.network else self._settings.docker_networks
                if not names:
                    labels = {LABEL_INSTALLATION: self.installation}
                    # One worker at a time: while two networks have one name the engine starts no container on either.
                    with self._store.client.lock(keys.NETWORK_MAKER, timeout=_MAKING_NETWORK_S):
                        self._own_network = self.engine.ensure_network(self._network_name(), labels)
                    names = (self._own_network,)
                self._networks = Networks(tuple(names), self._settings.docker_dns, flags.hosts)
            return self._networks

    def start_frame(self, environment: Environment, sandbox: ContainerSandbox) -> Start:
        """What a relay in the sandbox is to start."""
        return start_frame(
            environment.spec,
            environment.id,
            sandbox.image,
            self._settings,
            own_network=sandbox.own_network,
            limited=self._info.limits_memory,
            worker_socket=SOCKET if sandbox.relay_socket else "",
        )

    def prepare(self, spec: FunctionSpec, code_url: str) -> str:
        """Have the function's image here, and the layer on it where there must be one; answers the image's id. Raises :class:`StartError`."""
        with _as_start_error(self, spec):
            self._network_pool.fill()  # it will be called soon
            image = self.images.prepare(spec)
            if self._injector.remote and not spec.hot_reload_path:
                self._injector.release(self._injector.provide(spec, image, self._settings.endpoint + code_url))
            return image.id

    def _network_name(self) -> str:
        return f"everwarm-{self.installation}"

    def make(
        self,
        environment: Environment,
        code_url: str,
        command: Sequence[str],
        run: Callable[[ContainerSandbox], None],
        *,
        with_socket: bool = False,
    ) -> ContainerSandbox:
        """Create the environment's container; ``run`` is called with the sandbox, and attaches to its container and starts it.

        Raises :class:`StartError`; nothing is left then.
        """
        with _as_start_error(self, environment.spec):
            image = self.images.find(environment.spec)
            code = self._injector.provide(environment.spec, image, self._settings.endpoint + code_url)
            sandbox = ContainerSandbox(
                "", image, code, self._network_pool.take_ready(), own_network=True, relay_socket=None
            )
            try:
                if with_socket and not self._injector.remote:
                    sandbox.relay_socket = RelaySocket(self._sockets, environment.id)
                self._fill(sandbox, environment, command, run)
            except BaseException:
                self._discard(sandbox)
                raise
        return sandbox

    def _fill(
        self,
        sandbox: ContainerSandbox,
        environment: Environment,
        command: Sequence[str],
        run: Callable[[ContainerSandbox], None],
    ) -> None:
        networks = self.networks()
        network = f"container:{sandbox.namespace.container}" if sandbox.namespace else networks.names[0]
        sandbox.own_network = network != "host"
        spec = container_spec(
            environment.spec,
            image=sandbox.code.image,
            command=command,
            labels={**self.labels(), LABEL_ENVIRONMENT: environment.id},
            mounts=[*sandbox.code.mounts, *([sandbox.relay_socket.mount] if sandbox.relay_socket else [])],
            network=network,
            settings=self._settings,
            host=self._info.architecture,
        )
        # The engine makes the working directory where the image has none.
        sandbox.container = self.engine.create(replace(spec, directory=program(environment.spec, sandbox.image)[2]))
        environment.lease.container = sandbox.container[:12]
        if sandbox.namespace is None:
            for other in networks.names[1:]:
                self.engine.join(other, sandbox.container)
        run(sandbox)

    def _discard(self, sandbox: ContainerSandbox) -> None:
        self._release(sandbox, gone=self.remove(sandbox) if sandbox.container else True)

    def _release(self, sandbox: ContainerSandbox, *, gone: bool) -> None:
        if sandbox.relay_socket is not None:
            sandbox.relay_socket.remove()
        if sandbox.namespace is not None:
            self._network_pool.give_back(sandbox.namespace, clean=gone)
        self._injector.release(sandbox.code)

    def remove(self, sandbox: ContainerSandbox) -> bool:
        """Remove a container by force; whether it is gone."""
        try:
            self.engine.remove(sandbox.container)
        except EngineError as error:
            log.warning(
                "a container could not be removed; the reaper will try again",
                extra={"container": sandbox.container, "error": str(error)},
            )
            return False
        return True

    async def dispose(self, sandbox: ContainerSandbox, *, ended: bool) -> None:
        """Clear away a sandbox whose first process was told to end; on the links' loop. ``ended``: it did, otherwise it is removed by force."""
        await asyncio.get_running_loop().run_in_executor(None, self._dispose, sandbox, ended)

    def _dispose(self, sandbox: ContainerSandbox, ended: bool) -> None:
        self._release(sandbox, gone=ended or self.remove(sandbox))

    def ready(self, knows: Callable[[str], bool]) -> None:
        """Look for containers that are left over, in the background."""
        self._reaper = Reaper(
            self.engine, self._store, lambda: self.installation, self._settings.name, knows, self._on_failure
        )
        self._reaper.start()

    def close(self) -> None:
        """Remove what the worker still has on the engine; every sandbox was disposed of before."""
        if self._reaper is not None:
            self._reaper.stop()
        self._network_pool.close()
        if self._reaper is not None:
            self._reaper.remove_own()
        self._injector.close()
        if self._own_network:
            self.engine.remove_network(self._own_network)  # unless another worker uses it
        elif self._installation:
            self.engine.remove_network(self._network_name(), 0.0)  # which a killed one may have left
        self.engine.close()
        self._run.close()


_GONE: Final = (RelayMissing, OSError)


@contextmanager
def _as_start_error(sandboxes: ContainerSandboxes, spec: FunctionSpec) -> Iterator[None]:
    try:
        yield
    except NoSuch as error:
        sandboxes.images.forget(spec)
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
