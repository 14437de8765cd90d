"""What a local environment has to itself: a directory, a user id (as root), a memory group (where there are any), a relay.

Making these takes about as long as Python takes to start, so one place is made in advance, and its relay waits for
START. It knows nothing of any function: what is to stay visible beside its private /tmp is the same for all of them.
"""

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from workers.disk.removal import remove
from workers.disk.uids import Identity, NoIdentity, take
from workers.environments.environment import Environment
from workers.link.answers import ApiRequest, End
from workers.link.loop_thread import LoopThread
from workers.link.process_relay import RelayProcess, spawn
from workers.modes.local.cgroups import MemoryGroups
from workers.relay.binaries import RelayMissing

#: By then the environment that took the last one has started, with the processor for itself.
_REFILL_S: Final = 0.1

log = logging.getLogger(__name__)


class Place:
    """One environment's; ``relay`` is set by :class:`Places`."""

    relay: RelayProcess
    group: Path | None = None
    """The memory group that the relay was put into in advance."""

    def __init__(
        self, directory: Path, identity: Identity | None, on_api: Callable[[Environment, ApiRequest], None]
    ) -> None:
        self.directory: Final = directory
        self.scratch: Final = directory / "tmp"
        self.identity: Final = identity
        self._on_api = on_api
        self._environment: Environment | None = None

    def give_to(self, environment: Environment) -> None:
        """From here on the environment hears of what its relay says."""
        self._environment = environment
        environment.relay = self.relay

    @property
    def fresh(self) -> bool:
        """Whether its relay waits for START."""
        return self.relay.link.state == "new"

    # Callbacks of the link; before START there is only an end.

    def on_log(self, data: bytes) -> None:
        """The function wrote something."""
        if self._environment is not None:
            self._environment.on_log(data)

    def on_idle(self) -> None:
        """The runtime asks for the next event."""
        if self._environment is not None:
            self._environment.on_idle()

    def on_exit(self, end: End) -> None:
        """The process tree is gone."""
        if self._environment is not None:
            self._environment.on_exit(end)

    def on_api(self, request: ApiRequest) -> None:
        """The function calls the Lambda API."""
        if self._environment is not None:
            self._on_api(self._environment, request)


class Places:
    """The places of one worker, below one directory."""

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
        self._spare: Place | None = None
        self._refilling = False
        self._refill_done: Future[None] | None = None
        self._closed = False
        self._refill_later()

    def take(self, code: Path) -> Place:
        """A place whose environment sees ``code``. Raises ``OSError``, ``NoIdentity`` or ``RelayMissing``."""
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

    def limit(self, place: Place, memory_mb: int) -> list[str]:
        """Limit the memory of what its relay will start; answers the groups for START, none when the relay must do it."""
        group = place.group
        if group is None:
            group = self._memory.create(place.directory.name, memory_mb)
        elif not self._memory.limit(group, memory_mb):
            return []
        return [] if group is None else [str(group)]

    async def destroy(self, place: Place) -> None:
        """On the links' loop: end the relay, remove directory and group, and give the user id back."""
        await place.relay.close()
        await asyncio.get_running_loop().run_in_executor(None, self._clear, place)

    def close(self) -> None:
        """No place is taken any more."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
        if self._refill_done is not None:
            self._refill_done.result()  # one that is half made would be left behind
        if spare is not None:
            self._loop.submit(self.destroy(spare)).result()

    def _make(self, keep: Sequence[Path]) -> Place:
        identity = take(self._uids) if self._uids is not None else None
        place = Place(self._directory / secrets.token_hex(16), identity, self._on_api)
        try:
            _make_private(place.directory, identity)
            _make_private(place.scratch, identity)
            place.relay = self._loop.submit(self._spawn(place, keep)).result()
        except BaseException:
            self._clear(place)
            raise
        return place

    def _make_spare(self) -> Place:
        place = self._make(self._keep)
        place.group = self._memory.prepare(place.directory.name, place.relay.pid)
        return place

    def _clear(self, place: Place) -> None:
        try:
            remove(place.directory)
            self._memory.remove(place.directory.name)
        finally:
            if place.identity is not None:
                place.identity.close()

    async def _spawn(self, place: Place, keep: Sequence[Path]) -> RelayProcess:
        private = self._uids is not None
        return await spawn(
            on_log=place.on_log,
            on_idle=place.on_idle,
            on_exit=place.on_exit,
            on_api=place.on_api,
            private_tmp=str(place.scratch) if private else "",
            keep=[str(path) for path in (*keep, place.scratch)] if private else (),
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
            spare: Place | None = await asyncio.get_running_loop().run_in_executor(None, self._make_spare)
        except (OSError, NoIdentity, RelayMissing) as error:
            # The next environment meets the same, and its caller is told.
            log.debug("no place could be made in advance: %s", error)
            spare = None
        with self._lock:
            self._refilling = False
            if not self._closed:
                self._spare, spare = spare, None
        if spare is not None:
            await self.destroy(spare)


def _make_private(path: Path, identity: Identity | None) -> None:
    path.mkdir(mode=0o700)
    if identity is not None:
        os.chown(path, identity.uid, identity.uid)
