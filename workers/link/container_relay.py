"""A relay in a container, tied to a :class:`workers.link.relay_link.Link` over the engine's attached stream.

The stream carries bytes for the process' standard input, and back frames of its standard output and error: 1 byte which
(1 output, 2 error), 3 of nothing, 4 of length, big-endian (Docker Engine API, "Stream format"). The container's first
process ends when its input closes, which the engine does when its only client is gone (StdinOnce): so a container never
outlives the worker that attached to it.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final, cast

from workers.link.answers import ApiRequest, End
from workers.link.frames import Buffer
from workers.link.relay_link import Link

_HEAD: Final = 8
_STDERR: Final = 2
_LINE_BYTES: Final = 2000

log = logging.getLogger(__name__)


class AttachedStream(asyncio.Protocol):
    """The stream to one process; made on any thread, used on the links' loop only."""

    def __init__(
        self,
        on_data: Callable[[bytes], None],
        on_end: Callable[[], None],
        *,
        on_full: Callable[[], None] = lambda: None,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_data`` gets what the process writes; ``on_full`` and ``on_room`` tell of back-pressure."""
        self._on_data = on_data
        self._on_end = on_end
        self._on_full = on_full
        self._on_room = on_room
        self._transport: asyncio.Transport | None = None
        self._rest = bytearray()
        self._ended = asyncio.Event()
        self._aborted = False
        self.process_ended = False
        """The other side closed the stream; not we, having waited in vain."""

    @classmethod
    async def open(cls, stream: socket.socket, protocol: "AttachedStream") -> None:
        """Tie the engine's stream to the protocol, on the running loop."""
        loop = asyncio.get_running_loop()
        stream.setblocking(False)
        if stream.family == socket.AF_UNIX:
            await loop.create_unix_connection(lambda: protocol, sock=stream)
        else:
            await loop.create_connection(lambda: protocol, sock=stream)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport of the stream, which is connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        """Take frames apart; one that is not whole waits for its rest."""
        rest = self._rest
        if rest:
            rest += data
            view = bytes(rest)
            rest.clear()
        else:
            view = data
        start, end = 0, len(view)
        while end - start >= _HEAD:
            stop = start + _HEAD + int.from_bytes(view[start + 4 : start + _HEAD])
            if stop > end:
                break
            if view[start] == _STDERR:
                self._complain(view[start + _HEAD : stop])
            else:
                self._on_data(view[start + _HEAD : stop])
            start = stop
        rest += view[start:]

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of the process."""
        return self._ended.is_set()

    def _complain(self, line: bytes) -> None:
        log.warning("a relay says: %s", line[:_LINE_BYTES].decode(errors="replace").strip())

    def connection_lost(self, _error: Exception | None) -> None:
        """The process has ended, or the engine has."""
        if self._rest:
            # What an engine says in plain text: the process could not be executed.
            self._complain(bytes(self._rest))
        self.process_ended = not self._aborted
        self._ended.set()
        self._on_end()

    def pause_writing(self) -> None:
        """The stream is full."""
        self._on_full()

    def resume_writing(self) -> None:
        """The stream has room again."""
        self._on_room()

    def write(self, buffers: list[Buffer]) -> None:
        """Write to the process' input; dropped when the process is gone."""
        if self._transport is None or self._transport.is_closing():
            return
        if len(buffers) == 1:
            self._transport.write(buffers[0])
        else:
            self._transport.writelines(buffers)

    def pause_reading(self) -> None:
        """Take nothing more from the process."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo :meth:`pause_reading`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    async def close(self, patience_s: float) -> bool:
        """Close the process' input, and wait for the process to end; false when it lives on after ``patience_s``."""
        if self._transport is None:
            return True
        self.resume_reading()
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()
        try:
            await asyncio.wait_for(self._ended.wait(), patience_s)
        except TimeoutError:
            self._aborted = True
        finally:
            self._transport.abort()
        return self.process_ended


class ContainerRelay:
    """A relay behind an :class:`AttachedStream`; what an environment needs of it (``workers.environments.environment.Relay``)."""

    link: Link

    def __init__(
        self,
        *,
        on_log: Callable[[bytes], None],
        on_idle: Callable[[], None],
        on_exit: Callable[[End], None],
        on_api: Callable[[ApiRequest], None],
    ) -> None:
        self.link = Link(self._write, on_log=on_log, on_idle=on_idle, on_exit=on_exit, on_api=on_api)
        self._stream = AttachedStream(
            self.link.feed, self._ended, on_full=self.link.pause_writing, on_room=self.link.resume_writing
        )
        self._socket: asyncio.Transport | None = None
        self._server: asyncio.Server | None = None

    async def connect(self, stream: socket.socket, listener: socket.socket | None = None) -> None:
        """Take the engine's stream, and listen for the relay on ``listener``."""
        if listener is not None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(lambda: _SocketProtocol(self), sock=listener, backlog=1)
        await AttachedStream.open(stream, self._stream)

    def _ended(self) -> None:
        self._close_server()
        if self._socket is None or self._socket.is_closing():
            self.link.closed()

    def _close_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def use_socket(self, transport: asyncio.Transport) -> bool:
        """Whether a connection is the relay's: the first is, because nothing else runs in its container then; others are refused."""
        self._close_server()
        if self._socket is not None or self._stream.ended:
            transport.abort()
            return False
        self._socket = transport
        return True

    def _write(self, buffers: list[Buffer]) -> None:
        if self._socket is None:
            self._stream.write(buffers)
        elif not self._socket.is_closing():
            for buffer in buffers:
                self._socket.write(buffer)

    def pause_reading(self) -> None:
        """Take nothing more from the relay."""
        self._stream.pause_reading()
        if self._socket is not None and not self._socket.is_closing():
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Undo :meth:`pause_reading`."""
        self._stream.resume_reading()
        if self._socket is not None and not self._socket.is_closing():
            self._socket.resume_reading()

    async def close(self, patience_s: float = 15.0) -> bool:
        """End the relay and its tree; false when the relay lives on, because its container is paused or hangs."""
        self._close_server()
        if self._socket is not None and not self._socket.is_closing():
            self._socket.resume_reading()
        try:
            return await self._stream.close(patience_s)
        finally:
            if self._socket is not None:
                self._socket.abort()


class _SocketProtocol(asyncio.Protocol):
    """A connection to the worker's own socket."""

    def __init__(self, owner: ContainerRelay) -> None:
        self._owner = owner
        self._link = owner.link
        self._used = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._used = self._owner.use_socket(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        if self._used:
            self._link.feed(data)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._used:
            self._link.closed()

    def pause_writing(self) -> None:
        self._link.pause_writing()

    def resume_writing(self) -> None:
        self._link.resume_writing()
