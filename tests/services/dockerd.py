"""A Docker engine of the tests' own: containerd and dockerd with own sockets, state and address ranges.

What it is to keep between runs (images) lies below a folder of the machine's cache; everything else in a folder below
``/run`` that goes with it. Several may run at a time, beside others that have nothing to do with the tests.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import IO, Any, Final

import docker
from docker.errors import APIError, DockerException, NotFound

from dispatcher.cli.process import spawn
from tests.services import firewall
from tests.services.processes import everything, tree, wait_until_gone
from tests.services.waiting import wait_until

#: As many can run at a time; each has its data and 64 networks.
_SLOTS: Final = 4
_START_S: Final = 60.0
_STOP_S: Final = 30.0
#: For containers that are being removed already.
_GRACE_S: Final = 5.0
#: What the names of the runtime images begin with.
REGISTRY: Final = "everwarm.test/lambda"
#: And those of all images that are kept.
_HOST: Final = REGISTRY.partition("/")[0]


@dataclass(frozen=True)
class _Slot:
    """What one engine has for itself; nobody else uses it as long as its lock is held."""

    data: Path
    """Kept for the next run."""
    run: Path
    bridge: str
    """The interface of the default network."""
    addresses: IPv4Network

    @classmethod
    def of(cls, number: int, cache: Path) -> "_Slot":
        """The slot of that number."""
        addresses = IPv4Network(f"10.213.{number * 64}.0/18")
        return cls(cache / f"engine{number}", Path(f"/run/everwarm-engine{number}"), f"everwarm-t{number}", addresses)


class EngineFailed(Exception):
    """It can't start; one line for people."""


class Dockerd:
    """A running engine; made by :meth:`running`."""

    def __init__(self, slot: _Slot, log: IO[bytes]) -> None:
        self.url = f"unix://{slot.run}/docker.sock"
        self._slot = slot
        self._log = log
        self._started: list[subprocess.Popen[bytes]] = []

    @classmethod
    @contextmanager
    def running(cls, cache: Path) -> Iterator["Dockerd"]:
        """An engine that has the images of earlier ones. Raises :class:`EngineFailed`."""
        _check_machine()
        with _free_slot(cache) as slot:
            _clean(slot)  # what a run left that was killed
            slot.run.mkdir(mode=0o700)
            try:
                with (slot.data / "engine.log").open("wb") as log:
                    engine = cls(slot, log)
                    try:
                        with firewall.kept():
                            engine.start()
                        engine.remove_leftovers()
                        yield engine
                    finally:
                        engine.stop()
            finally:
                _clean(slot)

    def start(self) -> None:
        """Start it and wait until it answers."""
        data, run = self._slot.data, self._slot.run
        # dockerd would start a containerd by itself, but not where the machine has another at the usual place.
        config = self._file("containerd.toml", 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        self._spawn(
            "containerd", "--config", str(config), "--address", str(run / "containerd.sock"),
            "--root", str(data / "containerd"), "--state", str(run / "containerd"),
        )  # fmt: skip
        self._wait("containerd has a socket", (run / "containerd.sock").exists)
        # With no bridge of its own it would take the machine's docker0, and with none at all it removes that one.
        subprocess.run(["ip", "link", "add", self._slot.bridge, "type", "bridge"], check=True)
        self._start_daemon()

    def _start_daemon(self) -> None:
        data, run = self._slot.data, self._slot.run
        self._spawn(
            "dockerd", "--host", self.url, "--containerd", str(run / "containerd.sock"),
            "--data-root", str(data / "docker"), "--exec-root", str(run / "docker"),
            "--pidfile", str(run / "docker.pid"), "--config-file", str(self._file("daemon.json", "{}")),
            "--bridge", self._slot.bridge, "--default-address-pool", f"base={self._slot.addresses},size=24",
            "--group", "root",
        )  # fmt: skip
        self._wait("dockerd answers", self._answers)

    def stop_daemon(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End dockerd alone, as a restart of its service does, or a crash."""
        daemon = self._started.pop()
        daemon.send_signal(number)
        daemon.wait(_STOP_S)

    def start_daemon(self) -> None:
        """Start it again."""
        with firewall.kept():
            self._start_daemon()

    def _file(self, name: str, content: str) -> Path:
        file = self._slot.run / name
        file.write_text(content)
        return file

    def _spawn(self, *argv: str) -> None:
        self._started.append(spawn(argv, _daemon_environ(), output=self._log))

    def _wait(self, description: str, condition: Callable[[], bool]) -> None:
        def met() -> bool:
            if self._started[-1].poll() is not None:
                raise EngineFailed(f"waited until {description}, and it ended:\n{self._log_tail()}")
            return condition()

        try:
            wait_until(description, met, _START_S)
        except AssertionError as error:
            raise EngineFailed(f"{error}\n{self._log_tail()}") from None

    def _answers(self) -> bool:
        with suppress(DockerException, OSError), _client(self.url) as client:
            return bool(client.ping())
        return False

    def _log_tail(self) -> str:
        return "\n".join(Path(self._log.name).read_text(errors="replace").splitlines()[-15:])

    def remove_leftovers(self) -> list[str]:
        """Remove all but the tests' images; a line for each container that there was, if it did not go by itself."""
        with _client(self.url) as client:
            with suppress(AssertionError):
                wait_until(
                    "all containers are gone",
                    lambda: not client.containers.list(all=True, ignore_removed=True),
                    _GRACE_S,
                )
            left = client.containers.list(all=True, ignore_removed=True)
            for container in left:
                with suppress(NotFound):
                    container.remove(force=True, v=True)
            for network in client.networks.list(filters={"type": "custom"}):
                network.remove()
            client.volumes.prune()
            for image in client.images.list():
                if not any(tag.startswith(f"{_HOST}/") for tag in image.tags):
                    # One that others are made of stays as long as they do.
                    with suppress(APIError):
                        client.images.remove(image.id, force=True)
        return [f"container {one.name} ({one.status}) {one.labels}" for one in left]

    def stop(self) -> None:
        """End it; what does not end with it goes by force."""
        for daemon in reversed(self._started):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise EngineFailed("only root can start one; run make test as root, or without CI=true")
    for program in ("dockerd", "containerd", "runc", "iptables", "ip"):
        if shutil.which(program, path=_daemon_environ()["PATH"]) is None:
            raise EngineFailed(
                f"{program} is missing; type: apt-get install --no-install-recommends docker.io iptables"
            )


def _daemon_environ() -> dict[str, str]:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "EVERWARM_"))}
    return {**kept, "PATH": path}


@contextmanager
def _client(url: str) -> Iterator[Any]:
    client = docker.DockerClient(base_url=url, version="auto", timeout=60)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _free_slot(cache: Path) -> Iterator[_Slot]:
    """One that no other run of tests uses at this time."""
    for number in range(_SLOTS):
        slot = _Slot.of(number, cache)
        slot.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (slot.data / "lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield slot
            return
    raise EngineFailed(f"{_SLOTS} engines of tests run already on this machine")


def _clean(slot: _Slot) -> None:
    """Remove everything of a slot's engine but what is kept: processes, mounts, interfaces, rules, files."""
    daemons = [process.pid for process in everything() if f"{slot.run}/" in process.command]
    # Containers live below their shims, which outlive containerd.
    left = [process for process in tree(daemons) if process.pid != os.getpid()]
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    wait_until_gone(left)
    _unmount(slot.run, slot.data)
    interfaces = {slot.bridge, *_interfaces(slot.addresses)}
    firewall.forget(slot.addresses, *interfaces)
    for interface in interfaces:
        subprocess.run(["ip", "link", "delete", interface], check=False, capture_output=True)
    shutil.rmtree(slot.run, ignore_errors=True)
    # A dockerd that finds its default network of last time there removes the machine's docker0.
    shutil.rmtree(slot.data / "docker" / "network", ignore_errors=True)


def _interfaces(network: IPv4Network) -> Iterator[str]:
    """Those that have an address of the network."""
    done = subprocess.run(["ip", "-json", "-4", "address"], check=True, capture_output=True)
    for interface in json.loads(done.stdout):
        if any(ip_address(one["local"]) in network for one in interface.get("addr_info", ()) if "local" in one):
            yield interface["ifname"]


def _unmount(*folders: Path) -> None:
    """Everything mounted below these folders."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in reversed(mounted):
        if any(place.startswith(f"{folder}/") for folder in folders):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)
