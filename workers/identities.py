"""User ids of local environments: one for each at a time, on this machine, whatever number of workers there is.

An id is taken by binding an abstract unix socket named after it: the kernel frees it when the worker dies, and nothing
lies on disk.
"""

import random
import socket
from typing import Final

_PREFIX: Final = "\0everwarm-uid-"


class NoIdentity(Exception):
    """Every user id of the range is in use."""


class Identity:
    """A user id that nobody else has until it is closed."""

    __slots__ = ("_socket", "uid")

    def __init__(self, uid: int, held: socket.socket) -> None:
        self.uid = uid
        self._socket = held

    def close(self) -> None:
        """Give it back; no process of this id may be left."""
        self._socket.close()


def take(uids: range) -> Identity:
    """Take any free id. Raises :class:`NoIdentity`."""
    start = random.randrange(len(uids))  # noqa: S311 - spreads them, so that an id is not used again at once
    for offset in range(len(uids)):
        uid = uids[(start + offset) % len(uids)]
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(f"{_PREFIX}{uid}")
        except OSError:
            held.close()
            continue
        return Identity(uid, held)
    raise NoIdentity(f"all user ids from {uids.start} to {uids.stop - 1} are in use (EVERWARM_LOCAL_UIDS)")
