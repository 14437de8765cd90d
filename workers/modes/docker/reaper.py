"""The reaper: containers that outlived those who made them are removed.

Containers end with their worker by themselves (``workers.link.container_relay``). What stays is one that was created and not started
yet, or that is paused. A worker removes its own containers that it does not know; another's only when that worker has had
no heartbeat for :data:`DEAD_S` of the present epoch: after a loss of Redis nobody is dead before everybody had the time to
say that they live.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from workers.contract import keys
from workers.engine import (
    LABEL_ENVIRONMENT,
    LABEL_INSTALLATION,
    LABEL_LAYER,
    LABEL_WORKER,
    Container,
    Engine,
    EngineError,
)
from workers.environments.starter import StartError
from workers.redis_client import Store, Unavailable
from workers.service_thread import ServiceThread

#: A worker without a heartbeat for this long is gone for good.
DEAD_S: Final = 30.0
_EVERY_S: Final = 5.0
_IMAGES_EVERY_S: Final = 15.0

log = logging.getLogger(__name__)


def leftovers(
    found: Iterable[Container], me: str, knows: Callable[[str], bool], silent_s: Mapping[str, float], epoch_s: float
) -> list[Container]:
    """Which containers are nobody's. ``silent_s``: worker → seconds since its last heartbeat; ``epoch_s``: the epoch's age."""
    return [one for one in found if _is_left(one, me, knows, silent_s, epoch_s)]


def _is_left(
    one: Container, me: str, knows: Callable[[str], bool], silent_s: Mapping[str, float], epoch_s: float
) -> bool:
    worker = one.labels.get(LABEL_WORKER, "")
    environment = one.labels.get(LABEL_ENVIRONMENT, "")
    if worker == me:
        # Without an environment it keeps a network namespace, and ends with its stream. It has none when the answer to its
        # creation was lost.
        return not knows(environment) if environment else one.state == "created"
    return min(silent_s.get(worker, epoch_s), epoch_s) > DEAD_S


class Reaper:
    """Looks every few seconds, in a thread of its own: an engine that hangs must delay nothing else."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        installation: Callable[[], str],
        me: str,
        knows: Callable[[str], bool],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._store = store
        self._installation = installation
        self._me = me
        self._knows = knows
        self._epoch: Any = None
        self._epoch_since = 0.0
        self._images_due = 0.0
        self._suspects: set[str] = set()
        self._thread = ServiceThread("reaper", lambda: self.run_once(time.monotonic()), lambda: _EVERY_S, on_failure)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._thread.stop(_EVERY_S)

    def remove_own(self) -> None:
        """Remove whatever the worker still has on the engine, after it has disposed of everything that it knew."""
        try:
            for one in self._engine.containers(f"{LABEL_WORKER}={self._me}"):
                if one.state != "removing":
                    self._remove(one)
        except EngineError as error:
            log.info("the engine is gone: what is left there is removed by another worker", extra={"error": str(error)})

    def run_once(self, now: float) -> int:
        """Remove what is left over; answers how many. A container of this worker must look left over twice in a row, because it may be on its way out."""
        try:
            silent_s, epoch_s = self._heartbeats(now)
            label = f"{LABEL_INSTALLATION}={self._installation()}"
            left = leftovers(self._engine.containers(label), self._me, self._knows, silent_s, epoch_s)
            if now >= self._images_due:
                self._images_due = now + _IMAGES_EVERY_S
                self._remove_images(label, silent_s, epoch_s)
        except (*Unavailable, EngineError, StartError) as error:
            log.debug("the reaper can't look: %s", error)
            return 0
        due = [one for one in left if one.id in self._suspects or one.labels.get(LABEL_WORKER) != self._me]
        self._suspects = {one.id for one in left}
        return sum(self._remove(one) for one in due)

    def _remove_images(self, label: str, silent_s: Mapping[str, float], epoch_s: float) -> None:
        """Layers that dead workers made. One in use stays, and one that a living worker needs again it makes again."""
        for name, labels in self._engine.images(label):
            worker = labels.get(LABEL_WORKER, "")
            if LABEL_LAYER in labels and min(silent_s.get(worker, epoch_s), epoch_s) > DEAD_S:
                self._engine.remove_image(name)

    def _heartbeats(self, now: float) -> tuple[dict[str, float], float]:
        client = self._store.client
        epoch = client.get(keys.EPOCH)
        if epoch != self._epoch or epoch is None:
            self._epoch, self._epoch_since = epoch, now
        seconds, micros = client.time()
        beats = cast("list[tuple[bytes, float]]", client.zrange(keys.WORKERS, 0, -1, withscores=True))
        silent = {name.decode(): seconds + micros / 1e6 - beat / 1000 for name, beat in beats}
        return silent, now - self._epoch_since

    def _remove(self, container: Container) -> bool:
        try:
            self._engine.remove(container.id)
        except EngineError as error:
            log.warning("a leftover container stays", extra={"container": container.name, "error": str(error)})
            return False
        log.info(
            "a container that was left over is removed",
            extra={"container": container.name, "worker": container.labels.get(LABEL_WORKER, "")},
        )
        return True
