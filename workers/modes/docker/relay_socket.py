"""A socket of the worker's own for the relay in a container, where the engine sees this worker's files.

A round trip over it takes 0.2 ms less than over the engine's attached stream, whose bytes pass two more processes; that
stream stays, for START, for whoever can't reach the socket, and since it ends with the worker. The directory of the
socket is mounted into the container. The relay connects before the runtime runs, and the worker takes one connection.
"""

import os
import shutil
import socket
from pathlib import Path
from typing import Final

_NAME: Final = "relay"
_MOUNTED: Final = "/.everwarm-socket"

#: What the relay connects to, in its container.
SOCKET: Final = f"{_MOUNTED}/{_NAME}"


class RelaySocket:
    """The socket of one environment, below a directory that no other user may enter."""

    def __init__(self, parent: Path, environment: str) -> None:
        """Make the directory, named after the environment, below ``parent``. Raises ``OSError``."""
        self._directory = parent / environment
        # Who is root in the container need be neither root nor this user here.
        self._directory.mkdir(mode=0o711)
        self.mount: Final = (str(self._directory), _MOUNTED)

    def listen(self) -> socket.socket:
        """A socket that listens for the relay. Raises ``OSError``."""
        listener = socket.socket(socket.AF_UNIX)
        try:
            directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY)
            try:
                # The kernel takes no path of more than 107 bytes.
                listener.bind(f"/proc/self/fd/{directory}/{_NAME}")
            finally:
                os.close(directory)
            (self._directory / _NAME).chmod(0o666)
            listener.listen(1)
        except BaseException:
            listener.close()
            raise
        return listener

    def remove(self) -> None:
        """Remove socket and directory: the container is gone, or was never made."""
        shutil.rmtree(self._directory, ignore_errors=True)
