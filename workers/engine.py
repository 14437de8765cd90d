"""The container engine (Docker, or Podman's compatible API): the one module that speaks to it.

Everything blocks and may be called from any thread. An engine that does not answer is :class:`EngineUnavailable`, what
it refuses is :class:`EngineError`; nothing of the client library's own errors gets out of here.
"""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import docker
import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.utils import parse_repository_tag

from workers.relay.binaries import aws_architecture

#: Labels of every container and image that Everwarm makes.
LABEL_INSTALLATION: Final = "everwarm.installation"
LABEL_WORKER: Final = "everwarm.worker"
LABEL_ENVIRONMENT: Final = "everwarm.environment"
LABEL_REVISION: Final = "everwarm.revision"
LABEL_FUNCTION: Final = "everwarm.function"
LABEL_LAYER: Final = "everwarm.layer"
"""Label of an image that is a layer which a worker made (``workers.modes.docker.code_mounts``)."""

#: A call that takes longer means that the engine hangs; starting a container on a busy machine takes seconds.
_TIMEOUT_S: Final = 60.0
#: Pulling an image over a slow line.
_PULL_S: Final = 900.0
_CONNECTIONS: Final = 64
#: How long containers that have ended may take until nothing counts them any more.
GOING_S: Final = 3.0
_TICK_S: Final = 0.1


class EngineError(Exception):
    """The engine refused; one line says why."""


class EngineUnavailable(EngineError):
    """No engine answers."""


class NoSuch(EngineError):
    """There is no such image, container or network."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says of itself."""

    name: str
    """``Docker Engine`` or ``Podman Engine``, with its version."""
    architecture: str
    """AWS's word: ``x86_64`` or ``arm64``."""
    rootless: bool
    limits_memory: bool = True
    """A rootless engine on cgroups version 1 limits nothing."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the engine has."""

    id: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: dict[str, str]
    directory: str
    architecture: str
    """AWS's word."""
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to be made. Its first process reads standard input, and the container ends with that."""

    image: str
    name: str
    command: tuple[str, ...]
    labels: Mapping[str, str]
    user: str = "0:0"
    directory: str = "/"
    mounts: Sequence[tuple[str, str]] = ()
    """Source and target, read-only."""
    writable_mounts: Sequence[tuple[str, str]] = ()
    network: str = "none"
    """A network's name, ``none``, ``host`` or ``container:ID``."""
    memory_bytes: int = 0
    cpu_shares: int = 0
    cpu_quota: int = 0
    """CPU time of a period of 100 ms, in microseconds; 0: without limit."""
    pids: int = 0
    open_files: int = 1024
    capabilities: Sequence[str] = ()
    privileged: bool = False
    dns: Sequence[str] = ()
    extra_hosts: Sequence[str] = ()
    ports: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    """``8080/tcp`` → host address and port (empty: any)."""
    ulimits: Sequence[tuple[str, int, int]] = ()
    platform: str = ""
    remove: bool = True
    """The engine removes the container when it ends."""

    def config(self) -> dict[str, Any]:
        """The engine API's document for this container."""
        host: dict[str, Any] = {
            "AutoRemove": self.remove,
            "LogConfig": {"Type": "none"},
            "NetworkMode": self.network,
            "Mounts": [_mount(*mount, read_only=True) for mount in self.mounts]
            + [_mount(*mount, read_only=False) for mount in self.writable_mounts],
            "CapDrop": ["ALL"],
            "CapAdd": list(self.capabilities),
            "SecurityOpt": ["no-new-privileges"],
            "Ulimits": [
                {"Name": name, "Soft": soft, "Hard": hard}
                for name, soft, hard in (("nofile", self.open_files, self.open_files), *self.ulimits)
            ],
            # The kernel, when it has to choose, takes the function before anything of the host.
            "OomScoreAdj": 500,
            "Dns": list(self.dns),
            "ExtraHosts": list(self.extra_hosts),
            "PortBindings": {
                port: [{"HostIp": address, "HostPort": number} for address, number in bound]
                for port, bound in self.ports.items()
            },
        }
        if self.privileged:
            host |= {"Privileged": True, "CapDrop": [], "CapAdd": [], "SecurityOpt": []}
        if self.memory_bytes:
            # No swap: what is over the limit is to be killed, not to crawl.
            host |= {"Memory": self.memory_bytes, "MemorySwap": self.memory_bytes}
        if self.cpu_shares:
            host["CpuShares"] = self.cpu_shares
        if self.cpu_quota:
            host |= {"CpuPeriod": 100_000, "CpuQuota": self.cpu_quota}
        if self.pids:
            host["PidsLimit"] = self.pids
        return {
            "Image": self.image,
            "Entrypoint": list(self.command),
            "Cmd": [],
            "User": self.user,
            "WorkingDir": self.directory,
            "Labels": dict(self.labels),
            "OpenStdin": True,
            "StdinOnce": True,
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "NetworkDisabled": False,
            # What an image checks on itself is no business of a function's, and costs it time.
            "Healthcheck": {"Test": ["NONE"]},
            "ExposedPorts": {port: {} for port in self.ports},
            "HostConfig": host,
        }


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine lists it."""

    id: str
    name: str
    state: str
    """``created``, ``running``, ``paused``, ``exited`` …"""
    labels: dict[str, str]


class Engine:
    """One engine; made by :meth:`connect`."""

    def __init__(self, client: Any) -> None:
        self._api = client
        self._lock = threading.Lock()
        self._images: dict[str, Image] = {}

    @classmethod
    def connect(cls, url: str | None = None) -> "Engine":
        """The engine at ``url`` (``unix://…``, ``tcp://…``), else that of DOCKER_HOST and its TLS variables, else the default socket.

        Raises :class:`EngineUnavailable`.
        """
        with _mapped():
            settings: dict[str, Any] = docker.utils.kwargs_from_env()
            if url:
                settings["base_url"] = url
            client = docker.APIClient(
                **settings, version="auto", timeout=_TIMEOUT_S, num_pools=4, max_pool_size=_CONNECTIONS
            )
            return cls(client)

    def close(self) -> None:
        """Give the connections back."""
        self._api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def info(self) -> EngineInfo:
        """What the engine says of itself. Raises :class:`EngineUnavailable` when it does not answer."""
        with _mapped():
            found = self._api.info()
            version = self._api.version()
        component = (version.get("Components") or [{}])[0].get("Name", "Engine")
        name = "Podman" if "podman" in component.lower() else "Docker"
        return EngineInfo(
            f"{name} {version.get('Version', '?')}",
            aws_architecture(found.get("Architecture", "")),
            any("rootless" in option for option in found.get("SecurityOptions") or ()),
            bool(found.get("MemoryLimit", True)),
        )

    # Images

    def image(self, name: str) -> Image | None:
        """The image of that name or id; ``None`` when the engine has none."""
        try:
            with _mapped():
                return _image(self._api.inspect_image(name))
        except NoSuch:
            return None

    def image_labels(self, name: str) -> dict[str, str] | None:
        """An image's labels; ``None`` when there is no such image."""
        found = self.image(name)
        return None if found is None else found.labels

    def pull(self, name: str, platform: str = "") -> None:
        """Fetch an image from its registry. Raises :class:`EngineError` with the registry's words."""
        repository, tag = parse_repository_tag(name)
        with _mapped():
            # A client of its own: reading a long answer must not end after the short calls' time.
            for line in self._api.pull(
                repository, tag=tag or "latest", platform=platform or None, stream=True, decode=True
            ):
                if "error" in line:
                    raise EngineError(str(line["error"]).strip())

    def import_image(self, tar: Path, name: str, changes: Sequence[str]) -> None:
        """A root file system becomes an image; ``changes`` are Dockerfile instructions."""
        with _mapped():
            answer: str = self._api.import_image(src=str(tar), changes=list(changes))
        self._name_import(answer, name)

    def import_files(self, archive: bytes, name: str, labels: Mapping[str, str]) -> None:
        """A small image of nothing but a tar archive's files."""
        changes = [f"LABEL {key}={value}" for key, value in labels.items()]
        with _mapped():
            answer: str = self._api.import_image_from_data(archive, changes=changes)
        self._name_import(answer, name)

    def _name_import(self, answer: str, name: str) -> None:
        """The answer is a line with the new image's id. Podman 4.3 does not heed a tag that is given with the import."""
        found = re.search(r"sha256:[0-9a-f]{64}|(?<=\")[0-9a-f]{64}", answer)
        if found is None or '"error"' in answer:
            raise EngineError(f"{name} could not be imported: {answer.strip()}")
        self.tag(found[0], name)

    def add_layer(self, base: str, archive: Any, name: str, labels: Mapping[str, str]) -> None:
        """Make image ``name`` of ``base`` and one more layer: the files of a tar archive (bytes or a file)."""
        repository, tag = parse_repository_tag(name)
        found = self.image(base)
        if found is None:
            raise NoSuch(f"there is no image {base}")
        config: dict[str, Any] = {"Image": base, "HostConfig": {"NetworkMode": "none"}}
        if not (found.entrypoint or found.command):
            # The container never runs, but an engine makes no container without a command. The new image gets it too.
            config["Cmd"] = ["/"]
        with _mapped():
            made = self._api.create_container_from_config({**config, "Labels": dict(labels)})["Id"]
            try:
                self._api.put_archive(made, "/", archive)
                self._api.commit(made, repository=repository, tag=tag, pause=False)
            finally:
                self._api.remove_container(made, force=True)

    def images(self, label: str) -> list[tuple[str, dict[str, str]]]:
        """Names and labels of the images that have a label (``name`` or ``name=value``)."""
        with _mapped():
            found = self._api.images(filters={"label": label})
        return [
            # Of two that were made under one name at the same time, the first has none now.
            (image["Id"] if name == "<none>:<none>" else name, image.get("Labels") or {})
            for image in found
            for name in image.get("RepoTags") or [image["Id"]]
        ]

    def tag(self, name: str, other: str) -> None:
        """Give an image one more name."""
        repository, tag = parse_repository_tag(other)
        with _mapped():
            self._api.tag(name, repository, tag or "latest")

    def remove_image(self, name: str, patience_s: float = 0.0) -> bool:
        """Remove an image, unless it is in use; whether it is gone. A container that has just ended counts for a moment."""
        return _insist(lambda: self._api.remove_image(name, noprune=False), patience_s)

    # Networks

    def ensure_network(self, name: str, labels: Mapping[str, str]) -> str:
        """The id of a bridge network whose containers do not reach each other; made when there is none of that name."""
        with _mapped():
            if not self._networks(name):
                self._api.create_network(
                    name,
                    driver="bridge",
                    labels=dict(labels),
                    options={"com.docker.network.bridge.enable_icc": "false"},
                )
            # Two that came at the same time made two of the same name: both take the older one.
            oldest, *others = self._networks(name)
            for other in others:
                with suppress(APIError):
                    self._api.remove_network(other)
        return oldest

    def _networks(self, name: str) -> list[str]:
        found = [network for network in self._api.networks(names=[name]) if network["Name"] == name]
        return [network["Id"] for network in sorted(found, key=lambda one: (one["Created"], one["Id"]))]

    def remove_network(self, name: str, patience_s: float = GOING_S) -> bool:
        """Remove a network, unless it is in use; whether it is gone."""
        return _insist(lambda: self._api.remove_network(name), patience_s)

    def join(self, network: str, container: str) -> None:
        """Connect a container that exists to one more network."""
        with _mapped():
            self._api.connect_container_to_network(container, network)

    # Containers

    def create(self, spec: ContainerSpec) -> str:
        """Create a container; answers its id. Raises :class:`NoSuch` when the image is missing, which is never pulled here."""
        with _mapped():
            url = self._api._url("/containers/create")
            params = {"name": spec.name, **({"platform": spec.platform} if spec.platform else {})}
            answer = self._api._result(self._api._post_json(url, data=spec.config(), params=params), True)
        return str(answer["Id"])

    def start(self, container: str) -> None:
        """Start a container that was created."""
        with _mapped():
            self._api.start(container)

    def attach(self, container: str) -> socket.socket:
        """The stream to its first process: raw bytes in, frames of stdout and stderr out (``workers.link.container_relay``)."""
        with _mapped():
            return _detach(
                self._api.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}), self._api
            )

    def execute(self, container: str, command: Sequence[str], user: str, directory: str) -> socket.socket:
        """Start one more process in a running container; the stream to it, as of :meth:`attach`."""
        with _mapped():
            made = self._api.exec_create(
                container, list(command), stdin=True, stdout=True, stderr=True, user=user, workdir=directory
            )
            return _detach(self._api.exec_start(made["Id"], socket=True), self._api)

    def remove(self, container: str) -> None:
        """End a container by force and remove it; harmless when it is gone or going."""
        with suppress(NoSuch), _mapped():
            try:
                self._api.remove_container(container, force=True, v=True)
            except APIError as error:
                if error.response is None or error.response.status_code != requests.codes.conflict:
                    raise

    def containers(self, *labels: str) -> list[Container]:
        """All containers, running or not, that have all these labels (``name`` or ``name=value``)."""
        with _mapped():
            found = self._api.containers(all=True, filters={"label": list(labels)})
        return [
            Container(
                one["Id"], (one.get("Names") or [""])[0].lstrip("/"), one.get("State", ""), one.get("Labels") or {}
            )
            for one in found
        ]

    def inspect(self, container: str) -> dict[str, Any]:
        """All that the engine knows of a container. Raises :class:`NoSuch`."""
        with _mapped():
            found: dict[str, Any] = self._api.inspect_container(container)
        return found

    def state(self, container: str) -> str | None:
        """``running``, ``paused`` …; ``None`` when it is gone."""
        try:
            status: str = self.inspect(container)["State"]["Status"]
        except NoSuch:
            return None
        return status

    def run(self, spec: ContainerSpec) -> tuple[int, bytes]:
        """Run a container to its end; its exit status and what it wrote."""
        container = self.create(spec)
        try:
            with closing(self.attach(container)) as stream:
                self.start(container)
                stream.shutdown(socket.SHUT_WR)
                written = b"".join(iter(lambda: stream.recv(1 << 16), b""))
            with _mapped():
                status = int(self._api.wait(container)["StatusCode"])
        finally:
            self.remove(container)
        return status, b"".join(_payloads(written))


def _payloads(data: bytes) -> Iterator[bytes]:
    while len(data) >= 8:
        size = int.from_bytes(data[4:8])
        yield data[8 : 8 + size]
        data = data[8 + size :]


def _detach(stream: Any, api: Any) -> socket.socket:
    """The stream's socket, on its own: the HTTP connection that it began as is forgotten."""
    inner = getattr(stream, "_sock", stream)
    if not isinstance(inner, socket.socket) or type(inner) is not socket.socket:
        # TLS and SSH: two threads carry the bytes between it and a pair of plain sockets.
        return _bridged(stream)
    found = inner.dup()
    found.setblocking(False)
    found.settimeout(None)
    response = getattr(stream, "_response", None)
    if response is not None:
        response.close()
    del api
    return found


def _bridged(stream: Any) -> socket.socket:
    ours, theirs = socket.socketpair()

    def copy(receive: Any, send: Any, end: Any) -> None:
        with suppress(OSError):
            while data := receive(1 << 16):
                send(data)
        with suppress(OSError):
            end()

    send = getattr(stream, "sendall", None) or stream.send
    threads = (
        threading.Thread(target=copy, args=(theirs.recv, send, lambda: stream.shutdown(socket.SHUT_WR)), daemon=True),
        threading.Thread(target=copy, args=(stream.recv, theirs.sendall, theirs.close), daemon=True),
    )
    for thread in threads:
        thread.start()
    return ours


def _mount(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    # As a mount and not as a bind: a source that is not there is an error, not a new directory of root's.
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}


def _image(found: Mapping[str, Any]) -> Image:
    config = found.get("Config") or {}
    return Image(
        id=found["Id"],
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        environment=dict(line.partition("=")[::2] for line in config.get("Env") or ()),
        directory=config.get("WorkingDir") or "/",
        architecture=aws_architecture(found.get("Architecture", "")),
        labels=config.get("Labels") or {},
    )


@contextmanager
def _mapped() -> Iterator[None]:
    """Errors of the client library become ours."""
    try:
        yield
    except (ImageNotFound, NotFound) as error:
        raise NoSuch(_words(error)) from error
    except APIError as error:
        raise EngineError(_words(error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise EngineUnavailable(f"the container engine does not answer: {error}") from error
    except DockerException as error:
        raise EngineUnavailable(str(error)) from error


def _insist(remove: Callable[[], object], patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with _mapped():
                remove()
        except NoSuch:
            return True
        except EngineError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_TICK_S)
        else:
            return True


def _words(error: APIError) -> str:
    return str(error.explanation or error).strip()
