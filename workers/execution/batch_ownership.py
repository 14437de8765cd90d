"""The messages of events that this worker has: said in Redis, so that the feeder sees when one went with its worker.

A message that nobody has, and that is in no queue, is lost: the feeder feeds its events again. Claims keep that safe, so
saying it late, or not at all, costs a repetition and nothing else.
"""

import threading
from contextlib import suppress
from typing import Final

from workers.contract import keys
from workers.redis_client import Store, Unavailable

#: Renewed with every heartbeat; a letter that moved a message and was lost ends after it.
LIFE_MS: Final = 30_000


class Holding:
    """Said by the threads that run messages, and again by upkeep."""

    def __init__(self, store: Store, worker: str) -> None:
        self._store = store
        self._worker = worker
        self._lock = threading.Lock()
        self._messages: set[str] = set()

    def begin(self, message: str) -> None:
        """This worker has it. A batch without a name is of synchronous calls, whose callers look after them."""
        if message:
            with self._lock:
                self._messages.add(message)
            with suppress(*Unavailable):  # renewing says it again
                self._store.client.set(keys.message(message), self._worker, px=LIFE_MS)

    def move(self, message: str, worker: str) -> None:
        """Another worker will find it in its mailbox."""
        if message:
            self._forget(message)
            with suppress(*Unavailable):
                self._store.client.set(keys.message(message), worker, px=LIFE_MS)

    def end(self, message: str) -> None:
        """All its outcomes are delivered."""
        if message and self._forget(message):
            with suppress(*Unavailable):
                self._store.client.delete(keys.message(message))

    def _forget(self, message: str) -> bool:
        with self._lock:
            known = message in self._messages
            self._messages.discard(message)
        return known

    def renew(self) -> None:
        """Say it of all of them."""
        with self._lock:
            messages = list(self._messages)
        if messages:
            with self._store.client.pipeline(transaction=False) as pipe:
                for message in messages:
                    pipe.set(keys.message(message), self._worker, px=LIFE_MS)
                pipe.execute()
