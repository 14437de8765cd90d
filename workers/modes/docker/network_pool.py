"""Network namespaces that are made in advance.

A new network namespace costs about 100 ms of a container's start, and joining one that exists does not. So small
containers that run nothing but a waiting relay keep some ready, and an environment's container joins one.

What stays apart: at any time a namespace has one environment, so no function reaches another's loopback, sockets or ports, and
the network between containers is closed. What is shared, one after the other: an address, and what the kernel remembers of
ended connections. A namespace is given to the next environment when the container before is gone, with all its
processes. Where none is ready, the container gets a network of its own directly, which is slower and keeps the same apart.

Flags that publish ports need that direct way always. These containers end with their worker, like every container of its.
"""

import asyncio
import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from workers.engine import LABEL_ENVIRONMENT, ContainerSpec, Engine, EngineError
from workers.environments.starter import StartError
from workers.link.container_relay import AttachedStream
from workers.link.loop_thread import LoopThread
from workers.modes.docker.spec import IDLE_RELAY
from workers.redis_client import Unavailable
from workers.relay.binaries import RelayMissing

#: How many are kept ready beyond those in use.
_READY: Final = 2
_CLOSE_S: Final = 5.0
_MEMORY_BYTES: Final = 32 << 20

log = logging.getLogger(__name__)


class NetworkNamespace:
    """A network namespace, kept by a container whose first process waits for its input to close: alive while the stream is."""

    def __init__(self, engine: Engine, loop: LoopThread, on_end: Callable[[], None]) -> None:
        self._engine = engine
        self._loop = loop
        self._on_end = on_end
        self._stream = AttachedStream(lambda _: None, self._ended)
        self.container = ""
        self.alive = False

    def start(self, spec: ContainerSpec, networks: Sequence[str] = ()) -> None:
        """Create, attach and start the container. Raises ``EngineError``; then nothing is left."""
        self.container = self._engine.create(spec)
        try:
            for network in networks:
                self._engine.join(network, self.container)
            stream = self._engine.attach(self.container)
            self._loop.submit(AttachedStream.open(stream, self._stream)).result()
            self.alive = True
            self._engine.start(self.container)
        except BaseException:
            self.alive = False
            self._engine.remove(self.container)
            raise

    def _ended(self) -> None:
        if self.alive:
            self.alive = False
            self._on_end()

    async def close(self) -> None:
        """End the container, on the links' loop."""
        self.alive = False
        if not await self._stream.close(_CLOSE_S):
            await asyncio.get_running_loop().run_in_executor(None, remove_quietly, self._engine, self.container)


def remove_quietly(engine: Engine, container: str) -> None:
    """Remove a container by force; an engine that is gone has nothing left to remove, or the reaper finds it later."""
    try:
        engine.remove(container)
    except EngineError as error:
        log.warning("a container could not be removed", extra={"container": container, "error": str(error)})


@dataclass(frozen=True, slots=True)
class Networks:
    """Where containers are connected: the first network, and the others."""

    names: tuple[str, ...]
    dns: Sequence[str] = ()
    hosts: Sequence[str] = ()


class NetworkPool:
    """The network namespaces of one worker."""

    def __init__(
        self,
        engine: Engine,
        loop: LoopThread,
        image: Callable[[], str],
        networks: Callable[[], Networks],
        labels: Callable[[], Mapping[str, str]],
        most: int,
        most_ready: int,
    ) -> None:
        """``most``: how many namespaces there may be; 0: every container has a network of its own. ``most_ready``: how many of them may be unused."""
        self._most_ready = most_ready
        self._engine = engine
        self._loop = loop
        self._image = image
        self._networks = networks
        self._labels = labels
        self._most = most
        self._lock = threading.Lock()
        self._ready: list[NetworkNamespace] = []
        self._count = 0
        self._filling: threading.Thread | None = None
        self._closed = False

    def take_ready(self) -> NetworkNamespace | None:
        """A namespace that is ready, for one environment; ``None`` when there is none."""
        with self._lock:
            found = None
            while self._ready and found is None:
                candidate = self._ready.pop()
                found = candidate if candidate.alive else None
        self.fill()
        return found

    def give_back(self, namespace: NetworkNamespace, *, clean: bool = True) -> None:
        """The container that had joined the namespace is gone; not ``clean``: nobody can say so, and nobody else gets it."""
        with self._lock:
            if clean and namespace.alive and not self._closed and len(self._ready) < self._most_ready:
                self._ready.append(namespace)
                return
        self._loop.submit(self._end(namespace))

    def fill(self) -> None:
        """See that some namespaces are ready, in the background."""
        with self._lock:
            if self._filling or self._closed or not self._short():
                return
            self._filling = threading.Thread(target=self._fill, name="network-pool", daemon=True)
            self._filling.start()

    def _short(self) -> bool:
        return len(self._ready) < _READY and self._count < self._most

    def _fill(self) -> None:
        try:
            while True:
                with self._lock:
                    if self._closed or not self._short():
                        return
                    self._count += 1
                self._add(self._make())
        except (EngineError, StartError, RelayMissing, *Unavailable) as error:
            with self._lock:
                self._count -= 1
            log.warning("no network namespace could be made in advance", extra={"error": str(error)})
        finally:
            with self._lock:
                self._filling = None

    def _add(self, namespace: NetworkNamespace) -> None:
        with self._lock:
            if not self._closed:
                self._ready.append(namespace)
                return
        self._loop.submit(self._end(namespace)).result()

    def _make(self) -> NetworkNamespace:
        networks = self._networks()
        namespace = NetworkNamespace(self._engine, self._loop, self._on_end)
        spec = ContainerSpec(
            image=self._image(),
            name=f"everwarm-network-{secrets.token_hex(6)}",
            command=IDLE_RELAY,
            labels={**self._labels(), LABEL_ENVIRONMENT: ""},
            network=networks.names[0],
            dns=networks.dns,
            extra_hosts=networks.hosts,
            memory_bytes=_MEMORY_BYTES,
            pids=16,
        )
        namespace.start(spec, networks.names[1:])
        return namespace

    def _on_end(self) -> None:
        with self._lock:
            self._count -= 1
            self._ready = [namespace for namespace in self._ready if namespace.alive]

    async def _end(self, namespace: NetworkNamespace) -> None:
        alive = namespace.alive
        await namespace.close()
        if alive:
            with self._lock:
                self._count -= 1

    def close(self) -> None:
        """End the namespaces that are ready; the others end when they are given back."""
        with self._lock:
            self._closed = True
            ready, self._ready = self._ready, []
            filling = self._filling
        if filling is not None:
            filling.join(_CLOSE_S)
        for done in [self._loop.submit(self._end(namespace)) for namespace in ready]:
            done.result()
