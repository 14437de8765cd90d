"""What a local environment has to itself: a directory, a user id (as root), a memory group (where there are any), a relay.

Making these takes about as long as Python takes to start, so one sandbox is made in advance, and its relay waits for
START. A sandbox knows nothing of any function: what is to stay visible beside its private /tmp is the same for all of them.
"""

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workers.disk.removal import remove
from workers.disk.uids import Identity, NoIdentity, take_identity
from workers.environments.environment import Environment
from workers.function_logs import LogBuffer
from workers.link.answers import ApiRequest, End
from workers.link.loop_thread import LoopThread
from workers.link.process_relay import RelayProcess, spawn
from workers.modes.local.cgroups import MemoryGroups
from workers.relay.binaries import RelayMissing

#: How long the next sandbox in advance waits: by then the environment that took the last one has started, with the
#: processor for itself.
_REFILL_S: Final = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Directory:
    """A sandbox's own directory, and the user who may enter it (``None``: the worker's)."""

    path: Path
    identity: Identity | None

    @property
    def scratch(self) -> Path:
        return self.path / "tmp"

    def make(self) -> None:
        for path in (self.path, self.scratch):
            path.mkdir(mode=0o700)
            if self.identity is not None:
                os.chown(path, self.identity.uid, self.identity.uid)


class _RelayEvents:
    """What a relay says goes to the environment that took its sandbox; before START there is only an end."""

    def __init__(self, on_api: Callable[[Environment, ApiRequest], None]) -> None:
        self._on_api = on_api
        self.environment: Environment | None = None

    def on_log(self, data: bytes) -> None:
        if self.environment is not None:
            self.environment.on_log(data)

    def on_idle(self) -> None:
        if self.environment is not None:
            self.environment.on_idle()

    def on_exit(self, end: End) -> None:
        if self.environment is not None:
            self.environment.on_exit(end)

    def on_api(self, request: ApiRequest) -> None:
        if self.environment is not None:
            self._on_api(self.environment, request)


class LocalSandbox:
    """What one environment has to itself; made by :class:`LocalSandboxes`."""

    def __init__(self, directory: _Directory, relay: RelayProcess, events: _RelayEvents) -> None:
        self._directory = directory
        self._events = events
        self.relay: Final = relay
        self.group: Path | None = None
        """The memory group that the relay was put into in advance."""

    @property
    def directory(self) -> Path:
        """The sandbox's own directory."""
        return self._directory.path

    @property
    def scratch(self) -> Path:
        """The function's directory for temporary files."""
        return self._directory.scratch

    @property
    def identity(self) -> Identity | None:
        """The user who runs the function; ``None``: the worker's."""
        return self._directory.identity

    def attach_to(self, environment: Environment, log_buffer: LogBuffer) -> None:
        """From here on the environment runs on the sandbox's relay, and hears of what that says."""
        environment.attach(self.relay, log_buffer)
        self._events.environment = environment

    @property
    def fresh(self) -> bool:
        """Whether the relay waits for START."""
        return self.relay.link.state == "new"


class LocalSandboxes:
    """The sandboxes of one worker, below one directory."""

    def __init__(
        self,
        directory: Path,
        uids: range | None,
        loop: LoopThread,
        memory: MemoryGroups,
        keep: Sequence[Path],
        on_api: Callable[[Environment, ApiRequest], None],
    ) -> None:
        """``keep``: directories that every environment sees, wherever they lie."""
        self._directory = directory
        self._uids = uids
        self._loop = loop
        self._memory = memory
        self._keep = tuple(keep)
        self._on_api = on_api
        self._lock = threading.Lock()
        self._spare: LocalSandbox | None = None
        self._refilling = False
        self._refill_done: Future[None] | None = None
        self._closed = False
        self._refill_later()

    def take(self, code: Path) -> LocalSandbox:
        """A sandbox whose environment sees ``code``. Raises ``OSError``, ``NoIdentity`` or ``RelayMissing``."""
        if not any(code.is_relative_to(kept) for kept in self._keep):
            return self._make((*self._keep, code))
        with self._lock:
            spare, self._spare = self._spare, None
        self._refill_later()
        if spare is None:
            return self._make(self._keep)
        if spare.fresh and spare.directory.is_dir():
            return spare
        self._loop.submit(self.destroy(spare))
        return self._make(self._keep)

    def limit(self, sandbox: LocalSandbox, memory_mb: int) -> list[str]:
        """Limit the memory of what its relay will start; answers the groups for START, none when the relay must do it."""
        group = sandbox.group
        if group is None:
            group = self._memory.create(sandbox.directory.name, memory_mb)
        elif not self._memory.limit(group, memory_mb):
            return []
        return [] if group is None else [str(group)]

    async def destroy(self, sandbox: LocalSandbox) -> None:
        """On the links' loop: end the relay, remove directory and group, and give the user id back."""
        await sandbox.relay.close()
        await asyncio.get_running_loop().run_in_executor(None, self._clear, sandbox.directory, sandbox.identity)

    def close(self) -> None:
        """End the sandbox that was made in advance; none is taken any more."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
        if self._refill_done is not None:
            self._refill_done.result()  # one that is half made would be left behind
        if spare is not None:
            self._loop.submit(self.destroy(spare)).result()

    def _make(self, keep: Sequence[Path]) -> LocalSandbox:
        identity = take_identity(self._uids) if self._uids is not None else None
        directory = _Directory(self._directory / secrets.token_hex(16), identity)
        events = _RelayEvents(self._on_api)
        try:
            directory.make()
            relay = self._loop.submit(self._spawn(directory, events, keep)).result()
        except BaseException:
            self._clear(directory.path, identity)
            raise
        return LocalSandbox(directory, relay, events)

    def _make_spare(self) -> LocalSandbox:
        sandbox = self._make(self._keep)
        sandbox.group = self._memory.prepare(sandbox.directory.name, sandbox.relay.pid)
        return sandbox

    def _clear(self, directory: Path, identity: Identity | None) -> None:
        try:
            remove(directory)
            self._memory.remove(directory.name)
        finally:
            if identity is not None:
                identity.close()

    async def _spawn(self, directory: _Directory, events: _RelayEvents, keep: Sequence[Path]) -> RelayProcess:
        private = self._uids is not None
        return await spawn(
            on_log=events.on_log,
            on_idle=events.on_idle,
            on_exit=events.on_exit,
            on_api=events.on_api,
            private_tmp=str(directory.scratch) if private else "",
            keep=[str(path) for path in (*keep, directory.scratch)] if private else (),
        )

    def _refill_later(self) -> None:
        with self._lock:
            wanted = self._spare is None and not self._refilling and not self._closed
            self._refilling = self._refilling or wanted
        if wanted:
            self._refill_done = self._loop.submit(self._refill())

    async def _refill(self) -> None:
        await asyncio.sleep(_REFILL_S)
        try:
            spare: LocalSandbox | None = await asyncio.get_running_loop().run_in_executor(None, self._make_spare)
        except (OSError, NoIdentity, RelayMissing) as error:
            # The next environment meets the same, and its caller is told.
            log.debug("no sandbox could be made in advance: %s", error)
            spare = None
        with self._lock:
            self._refilling = False
            if not self._closed:
                self._spare, spare = spare, None
        if spare is not None:
            await self.destroy(spare)
