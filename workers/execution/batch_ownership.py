"""Which worker has which batch of events: said in Redis, so that the feeder sees when a batch went with its worker.

A batch that no worker has, and that is in no queue, is lost: the feeder sends its events again. Claims keep that safe,
so saying it late, or not at all, costs a repetition and nothing else.
"""

import threading
from contextlib import suppress
from typing import Final

from workers.contract import keys
from workers.redis_client import Store, Unavailable

#: Renewed with every heartbeat; a batch that was moved by a message that was lost has no owner after it.
LIFE_MS: Final = 30_000


class BatchOwnership:
    """The batches that this worker has, by their ids. Noted by the threads that run them, and renewed by upkeep.

    A batch without an id is of synchronous calls, whose callers notice by themselves when nothing comes of it.
    """

    def __init__(self, store: Store, worker: str) -> None:
        self._store = store
        self._worker = worker
        self._lock = threading.Lock()
        self._batches: set[str] = set()

    def acquire(self, batch: str) -> None:
        """This worker has the batch from now on."""
        if batch:
            with self._lock:
                self._batches.add(batch)
            with suppress(*Unavailable):  # renewing says it again
                self._store.client.set(keys.message(batch), self._worker, px=LIFE_MS)

    def transfer(self, batch: str, worker: str) -> None:
        """Another worker will find the batch in its mailbox."""
        if batch:
            self._forget(batch)
            with suppress(*Unavailable):
                self._store.client.set(keys.message(batch), worker, px=LIFE_MS)

    def release(self, batch: str) -> None:
        """All outcomes of the batch are delivered. Harmless when it was transferred before."""
        if batch and self._forget(batch):
            with suppress(*Unavailable):
                self._store.client.delete(keys.message(batch))

    def _forget(self, batch: str) -> bool:
        with self._lock:
            known = batch in self._batches
            self._batches.discard(batch)
        return known

    def renew(self) -> None:
        """Say again which batches this worker has. Raises what Redis raises when it is gone."""
        with self._lock:
            batches = list(self._batches)
        if batches:
            with self._store.client.pipeline(transaction=False) as pipe:
                for batch in batches:
                    pipe.set(keys.message(batch), self._worker, px=LIFE_MS)
                pipe.execute()
