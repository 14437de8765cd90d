"""What a container engine takes by itself: the bare runtime of the same image, through the same client library.

Nothing of Everwarm is in these containers, none of its limits, and nobody is attached to them. The runtime's first request
is heard by a listener in a container that it shares a network with, or by one that is the first process of its own.
"""

import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from workers.engine import Engine

_PORT: Final = 9001
_HEARD_S: Final = 60
_ENTRYPOINT: Final = ("/lambda-entrypoint.sh", "index.handler")
_CODE: Final = "/var/task"
#: What an engine puts before each piece of a process' output (Docker Engine API, "Stream format").
_HEAD: Final = 8
_MARK: Final = b"."
#: Ends with its standard input, so that nothing is left of a bench that was killed.
_LISTENER: Final = f"""
import select, socket, sys
listener = socket.create_server(("0.0.0.0", {_PORT}))
while True:
    sys.stdout.write(".")
    sys.stdout.flush()
    ready, _, _ = select.select([sys.stdin, listener], [], [])
    if sys.stdin in ready:
        break
    connection, _ = listener.accept()
    with connection:
        request = connection.recv(65536)
        assert request.startswith(b"GET /2018-06-01/runtime/invocation/next "), request
"""


class Cycle(NamedTuple):
    """A container's life, in ms from the call that creates it."""

    asked_ms: float
    """It was created and started, and its runtime asked for the first event."""
    removed_ms: float


class Bare:
    """The runtime of one image with one directory of code."""

    def __init__(self, engine: Engine, image: str, runtime: str, code: Path) -> None:
        """``runtime`` is the name of its interpreter: the listener runs in it too."""
        self._api = engine._api  # not every call that is wanted here is one that Everwarm has
        self._engine = engine
        self._image = image
        self._interpreter = f"/var/lang/bin/{runtime}"
        self._code = str(code)

    @contextmanager
    def holder(self) -> Iterator["Place"]:
        """A network namespace that exists already: containers join that of the listener."""
        with self._network() as network, self._listener(network) as (container, heard):
            yield Place(self, container, f"container:{container}", "127.0.0.1", heard)

    @contextmanager
    def network(self) -> Iterator["Place"]:
        """A network on which each container gets a namespace of its own, and the listener's has its own as well."""
        with self._network() as network, self._listener(network) as (container, heard):
            found = self._api.inspect_container(container)["NetworkSettings"]["Networks"]
            yield Place(self, container, network, found[network]["IPAddress"], heard)

    @contextmanager
    def _network(self) -> Iterator[str]:
        name = f"everwarm-bench-{secrets.token_hex(4)}"
        self._api.create_network(name, driver="bridge")
        try:
            yield name
        finally:
            self._engine.remove_network(name)

    @contextmanager
    def _listener(self, network: str) -> Iterator[tuple[str, "_Heard"]]:
        stdin = {"OpenStdin": True, "StdinOnce": True, "AttachStdin": True, "AttachStdout": True}
        container = self.create((self._interpreter, "-c", _LISTENER), network, {}, {**stdin, "AutoRemove": True})
        try:
            with self._engine.attach(container) as stream:
                stream.settimeout(_HEARD_S)
                heard = _Heard(stream)
                self._api.start(container)
                heard.wait()
                yield container, heard
        finally:
            self._engine.remove(container)

    def create(
        self, command: tuple[str, ...], network: str, environment: Mapping[str, str], more: Mapping[str, Any]
    ) -> str:
        """A container's id; it has the code."""
        host: dict[str, Any] = {
            "NetworkMode": network,
            "LogConfig": {"Type": "none"},
            "AutoRemove": more.get("AutoRemove", False),
            "Mounts": [{"Type": "bind", "Source": self._code, "Target": _CODE, "ReadOnly": True}],
        }
        config = {
            "Image": self._image,
            "Entrypoint": list(command),
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "HostConfig": host,
        }
        made = self._api.create_container_from_config({**more, **config})
        return str(made["Id"])


class Place:
    """Where the bare runtime finds a listener."""

    def __init__(self, bare: Bare, container: str, network: str, address: str, heard: "_Heard") -> None:
        self._bare = bare
        self._api = bare._api
        self._container = container
        self._network = network
        self._environment = {"AWS_LAMBDA_RUNTIME_API": f"{address}:{_PORT}"}
        self._heard = heard

    def cycle(self) -> Cycle:
        """Create a container, start it, wait for its runtime's first request, and remove it."""
        began = time.perf_counter()
        container = self._bare.create(_ENTRYPOINT, self._network, self._environment, {})
        try:
            self._api.start(container)
            self._heard.wait()
            asked = time.perf_counter()
        finally:
            self._api.remove_container(container, force=True, v=True)
        return Cycle((asked - began) * 1000, (time.perf_counter() - began) * 1000)

    def exec_ms(self) -> float:
        """``docker exec`` of the runtime beside the listener, to its first request."""
        began = time.perf_counter()
        made = self._api.exec_create(self._container, list(_ENTRYPOINT), environment=self._environment)
        stream = self._api.exec_start(made["Id"], socket=True)
        self._heard.wait()
        took = (time.perf_counter() - began) * 1000
        # The listener has hung up, and so the runtime ends.
        while stream.read(65536):
            pass
        stream.close()
        return took


class _Heard:
    """What the listener says: a mark when it listens, and one for each request."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream

    def wait(self) -> None:
        """Until the next mark; anything else is an error of the listener's."""
        data = b""
        while len(data) < _HEAD + len(_MARK):
            found = self._stream.recv(65536)
            assert found, f"the listener ended: {data!r}"
            data += found
        assert data[_HEAD:] == _MARK, data
