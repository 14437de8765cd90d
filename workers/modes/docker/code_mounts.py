"""How a function's code and the relay get into its container.

Where the engine sees the worker's files, both are bind mounts, which cost nothing. Elsewhere (an engine on another host,
a worker that is in a container itself) they become a layer on the runtime's image, made once for each code and image:
copying into each container would cost 46 ms and more every time. Which of them it is, is found out by looking: the
engine refuses a bind mount whose source it does not see. A hot-reload directory is the engine host's in any case.
"""

import hashlib
import io
import logging
import secrets
import shutil
import tarfile
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workers.contract.messages import FunctionSpec
from workers.disk.code_cache import CodeCache, Tree
from workers.engine import (
    GOING_S,
    LABEL_ENVIRONMENT,
    LABEL_INSTALLATION,
    LABEL_LAYER,
    LABEL_WORKER,
    ContainerSpec,
    Engine,
    EngineError,
    EngineUnavailable,
    Image,
)
from workers.environments.starter import StartError
from workers.modes.docker.spec import RELAY, TASK
from workers.relay import binaries

_REPOSITORY: Final = "everwarm/code"
_RELAY_REPOSITORY: Final = "everwarm/relay"
#: Layers that no environment uses and that are kept for the next.
_UNUSED_LAYERS: Final = 64
_HASH: Final = 32

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CodeMounts:
    """What one environment's container is made of; ``tree`` stays until :meth:`CodeInjector.release`."""

    image: str
    mounts: tuple[tuple[str, str], ...]
    tree: Tree | None = None


class CodeInjector:
    """Puts code and relay in place for one engine."""

    def __init__(self, engine: Engine, run: Path, remote: bool | None, labels: Callable[[], Mapping[str, str]]) -> None:
        """``run``: the worker's run directory; ``remote``: whether the engine does not see this worker's files, or ``None`` to look."""
        self._labels = labels
        self._engine = engine
        self._run = run
        code = run / "code"
        code.mkdir(mode=0o700)
        self._code = CodeCache(code, None)
        self._remote = remote
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        self._layers: OrderedDict[str, int] = OrderedDict()
        """Layers of this worker, the most recently used last, and how many environments use each."""
        self._relays: dict[str, tuple[Path, str]] = {}

    @property
    def remote(self) -> bool:
        """Whether the engine does not see this worker's files."""
        if self._remote is None:
            self._remote = self._look()
        return self._remote

    def _look(self) -> bool:
        # Where the code will be: a daemon of another user may see the directory above and not this one.
        seen = self._run / "code" / "look"
        seen.touch()
        spec = ContainerSpec(
            image=self.relay_image(self._engine.info().architecture),
            name=f"everwarm-look-{secrets.token_hex(4)}",
            command=(RELAY,),
            labels={**self._labels(), LABEL_ENVIRONMENT: ""},
            mounts=[(str(seen), "/look")],
        )
        try:
            self._engine.remove(self._engine.create(spec))
        except EngineUnavailable:
            raise
        except EngineError as error:
            log.info(
                "the engine does not see this worker's files; code becomes image layers", extra={"why": str(error)}
            )
            return True
        return False

    def relay_image(self, architecture: str) -> str:
        """A small image of the relay alone, for containers that only keep a network namespace; made when it is missing."""
        path, digest = self._relay(architecture)
        name = f"{_RELAY_REPOSITORY}:{architecture}-{digest[:_HASH]}"
        with self._alone(name):
            if self._engine.image(name) is None:
                archive = io.BytesIO()
                with tarfile.open(fileobj=archive, mode="w") as tar:
                    _add_relay(tar, path)
                self._engine.import_files(archive.getvalue(), name, {})
        return name

    def provide(self, spec: FunctionSpec, image: Image, code_url: str) -> CodeMounts:
        """Put code and relay where a container of the image finds them.

        Raises :class:`StartError`, ``CodeUnavailable``, ``EngineError`` or ``OSError``.
        """
        relay, digest = self._relay(image.architecture)
        mounts = [] if self.remote else [(str(relay), RELAY)]
        tree = None
        if spec.hot_reload_path:
            if not self.remote and not Path(spec.hot_reload_path).is_dir():
                raise StartError(
                    f"The hot-reload directory {spec.hot_reload_path} is not on this machine.",
                    "InvalidParameterValueException",
                )
            mounts.append((spec.hot_reload_path, TASK))
        elif spec.package_type == "Zip" and not self.remote:
            tree = self._code.use(spec.code_sha256, code_url)
            mounts.append((str(tree.path), TASK))
        if not self.remote:
            return CodeMounts(image.id, tuple(mounts), tree)
        sha = spec.code_sha256 if spec.package_type == "Zip" and not spec.hot_reload_path else ""
        name = f"{_REPOSITORY}:{_digest(image.id, digest, sha, self._labels()[LABEL_INSTALLATION])}"
        self._make_layer(name, image, relay, lambda: self._code.use(sha, code_url) if sha else None)
        return CodeMounts(name, tuple(mounts))

    def release(self, mounts: CodeMounts) -> None:
        """A container made with these mounts is gone; may remove layers that nobody uses any more."""
        if mounts.tree is not None:
            self._code.release(mounts.tree)
        with self._lock:
            if mounts.image not in self._layers:
                return
            self._layers[mounts.image] -= 1
            unused = [name for name, users in self._layers.items() if not users]
            surplus = unused[: max(len(unused) - _UNUSED_LAYERS, 0)]
            for name in surplus:
                del self._layers[name]
        for name in surplus:
            self._engine.remove_image(name)

    def close(self) -> None:
        """Remove what only this worker needs; layers that another still uses stay."""
        self._code.close()
        if not self._layers:
            return
        mine = self._labels()[LABEL_WORKER]
        with suppress(EngineError):
            for name, labels in self._engine.images(f"{LABEL_WORKER}={mine}"):
                if LABEL_LAYER in labels:
                    self._engine.remove_image(name, GOING_S)

    # Layers

    def _make_layer(self, name: str, image: Image, relay: Path, use: Callable[[], Tree | None]) -> None:
        with self._alone(name):
            with self._lock:
                known = name in self._layers
            if not known or self._engine.image(name) is None:
                began = time.monotonic()
                if self._engine.image(name) is None:
                    self._bake(name, image, relay, use)
                log.debug("layer ready", extra={"image": name, "seconds": round(time.monotonic() - began, 3)})
            with self._lock:
                self._layers[name] = self._layers.pop(name, 0) + 1

    def _bake(self, name: str, image: Image, relay: Path, use: Callable[[], Tree | None]) -> None:
        tree = use()
        try:
            with tempfile.TemporaryFile(dir=self._run) as file:
                with tarfile.open(fileobj=file, mode="w") as tar:
                    _add_relay(tar, relay)
                    if tree is not None:
                        tar.add(tree.path, TASK, filter=_readable)
                file.seek(0)
                self._engine.add_layer(image.id, file, name, {**self._labels(), LABEL_LAYER: "1"})
        finally:
            if tree is not None:
                self._code.release(tree)

    def _alone(self, name: str) -> threading.Lock:
        with self._lock:
            return self._making.setdefault(name, threading.Lock())

    def _relay(self, architecture: str) -> tuple[Path, str]:
        """The relay where the engine can see it, if it sees anything here; and its SHA-256."""
        with self._lock:
            found = self._relays.get(architecture)
            if found is None:
                source = binaries.binary(architecture)
                if not source.is_file():
                    raise binaries.RelayMissing(f"there is no relay for {architecture} images in this installation")
                target = self._run / source.name
                shutil.copyfile(source, target)
                target.chmod(0o755)
                found = self._relays[architecture] = (target, hashlib.sha256(target.read_bytes()).hexdigest())
            return found


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_HASH]


def _add_relay(tar: tarfile.TarFile, path: Path) -> None:
    tar.add(path, RELAY, filter=_readable)


def _readable(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Make a file of the layer root's, for everybody to read, whoever unpacked it here."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode |= 0o555 if member.isdir() else 0o444
    return member
