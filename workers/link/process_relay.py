"""A relay as a child process of the worker, tied to a :class:`workers.link.relay_link.Link` on an event loop.

The relay gets an empty environment, a session of its own and no descriptor but its pipes (stderr, for diagnostics, is
the worker's). It ends, and its process tree with it, when its stdin is closed: by :meth:`RelayProcess.close`, or by the
worker's death. Only a relay that is itself killed can't do that; then what it leaves is killed here.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from workers.link.answers import ApiRequest, End
from workers.link.frames import Buffer
from workers.link.relay_link import Link
from workers.relay import binaries

_SWEEPS: Final = 20
"""How often to look for orphans: each time finds what the last one's victims had started meanwhile."""


def _kill_orphans(runtime_api: str) -> None:
    """Kill processes that were started under a relay, which is dead: no live one has its address in the environment."""
    marker = f"\0AWS_LAMBDA_RUNTIME_API={runtime_api}\0".encode()
    for _ in range(_SWEEPS if runtime_api else 0):
        found = [int(e.name) for e in os.scandir("/proc") if e.name.isdigit() and marker in _environment(e.path)]
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return


def _environment(process: str) -> bytes:
    """The environment a process was started with; empty for one that is gone, a zombie, or another user's."""
    try:
        with Path(process, "environ").open("rb") as file:
            return b"\0" + file.read()
    except OSError:
        return b""


class _Output(asyncio.Protocol):
    """The relay's stdout."""

    def __init__(self, owner: "RelayProcess") -> None:
        self._owner = owner

    def data_received(self, data: bytes) -> None:
        self._owner.link.feed(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self._owner.link.closed()
        self._owner.close_input()


class _Input(asyncio.BaseProtocol):
    """The relay's stdin: its back-pressure."""

    def __init__(self, owner: "RelayProcess") -> None:
        self._owner = owner

    def pause_writing(self) -> None:
        self._owner.link.pause_writing()

    def resume_writing(self) -> None:
        self._owner.link.resume_writing()


class RelayProcess:
    """One relay and its link; made by :func:`spawn`, used on its loop's thread only."""

    link: Link

    def __init__(self, process: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self.pid = process.pid
        self.gone: asyncio.Future[int] = loop.create_future()
        """Resolved with the relay's exit status when it has ended and was reaped."""
        self._process = process
        self._loop = loop
        self._input: asyncio.WriteTransport | None = None
        self._output: asyncio.ReadTransport | None = None
        self._watch()

    async def connect(self) -> None:
        """Tie the pipes to the link."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, _ = await self._loop.connect_write_pipe(lambda: _Input(self), self._process.stdin)
        self._output, _ = await self._loop.connect_read_pipe(lambda: _Output(self), self._process.stdout)

    def write(self, buffers: list[Buffer]) -> None:
        """What the link has for the relay; dropped when the relay is gone (the link will hear of that)."""
        if self._input is None or self._input.is_closing():
            return
        for buffer in buffers:
            self._input.write(buffer)

    def pause_reading(self) -> None:
        """Take nothing more from the relay, so that its runtime's output waits in the pipes."""
        if self._output is not None and not self._output.is_closing():
            self._output.pause_reading()

    def resume_reading(self) -> None:
        """Undo :meth:`pause_reading`."""
        if self._output is not None and not self._output.is_closing():
            self._output.resume_reading()

    def close_input(self) -> None:
        """Close the relay's stdin: it kills its tree and ends."""
        if self._input is not None and not self._input.is_closing():
            self._input.abort()

    async def close(self, patience_s: float = 15.0) -> None:
        """End the relay and its tree, and wait until both are gone.

        A relay that does not end by itself, which would be an error of ours, is killed after ``patience_s``.
        """
        self.close_input()
        done, _ = await asyncio.wait([self.gone], timeout=patience_s)
        if not done:
            self._process.send_signal(signal.SIGKILL)
            await self.gone
        if self._output is not None:
            self._output.close()

    def _watch(self) -> None:
        watched = os.pidfd_open(self.pid)

        def reap() -> None:
            self._loop.remove_reader(watched)
            os.close(watched)
            status = self._process.wait()
            if status < 0:
                _kill_orphans(self.link.runtime_api)
            self.gone.set_result(status)

        self._loop.add_reader(watched, reap)


async def spawn(
    *,
    on_log: Callable[[bytes], None],
    on_idle: Callable[[], None],
    on_exit: Callable[[End], None],
    on_api: Callable[[ApiRequest], None] | None = None,
    private_tmp: str = "",
    keep: Sequence[str] = (),
) -> RelayProcess:
    """Start a relay; the caller goes on with ``relay.link.start(…)``. The callbacks are those of :class:`Link`.

    ``private_tmp``: directory to stand in for /tmp, /var/tmp and /dev/shm in the environment, where that is permitted
    (``link.private_tmp`` tells); ``keep``: paths below these that must stay visible in it. Raises ``RelayMissing``
    and ``OSError``.
    """
    arguments = [str(binaries.host_binary())]
    if private_tmp:
        arguments += ["--private-tmp", private_tmp]
        for path in keep:
            arguments += ["--keep", path]
    # asyncio's own subprocesses would cost a thread each for their exit status (Python 3.11), and uvloop's want the main thread.
    process = subprocess.Popen(  # noqa: ASYNC220
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}, cwd="/", start_new_session=True, bufsize=0
    )
    relay = RelayProcess(process, asyncio.get_running_loop())
    relay.link = Link(relay.write, on_log=on_log, on_idle=on_idle, on_exit=on_exit, on_api=on_api)
    try:
        await relay.connect()
    except BaseException:
        await relay.close(0.0)
        raise
    return relay
