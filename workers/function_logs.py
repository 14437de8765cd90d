"""What functions write: whole to Redis, from where the dispatcher stores it, and the last 4 KB for the caller.

Each process tree has a :class:`LogBuffer`; the :class:`Shipper`, one a worker, merges small pieces and sends them. What is
not sent yet is bounded: over :data:`UNSENT_BYTES` the environments are paused, so that a function slows down to the speed
of the store. When Redis is gone, or nobody stores what lies there, the oldest is dropped and counted: logs never stop
calls.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from workers.contract import keys
from workers.contract.messages import FunctionSpec
from workers.contract.scripts import logs
from workers.link.loop_thread import LoopThread
from workers.redis_client import Store, Unavailable

#: What all environments together may have written and not sent.
UNSENT_BYTES: Final = 1024 * 1024
#: Lambda shows a caller this much of the end of an invocation's log.
TAIL_BYTES: Final = 4096
CHUNK_BYTES: Final = 64 * 1024
#: How many chunks of one function's log wait in Redis at most: 16 MB.
_STREAM_CHUNKS: Final = 256
_STREAM_LIFE_MS: Final = 600_000
_FLUSH_S: Final = 0.05
_PATIENCE_S: Final = 2.0

log = logging.getLogger(__name__)


class Shipper:
    """Sends log pieces to Redis in a thread of its own."""

    def __init__(self, store: Store, on_failure: Callable[[BaseException], None]) -> None:
        self._on_failure = on_failure
        self._store = store
        self._changed = threading.Condition()
        self._unsent: dict[str, list[bytes]] = {}
        self._size = 0
        self._sending = 0
        self._paused: dict[int, Callable[[], None]] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self.dropped_bytes = 0

    def start(self) -> None:
        """Start the shipper's thread."""
        self._thread.start()

    def put(self, stream: str, data: bytes) -> bool:
        """Take a piece; ``False`` asks the caller to pause its source, see :meth:`when_sent`."""
        with self._changed:
            self._unsent.setdefault(stream, []).append(data)
            self._size += len(data)
            if self._size == len(data):
                self._changed.notify()
            return self._size + self._sending < UNSENT_BYTES

    def when_sent(self, source: int, resume: Callable[[], None]) -> None:
        """Call ``resume`` once when there is room again; ``source`` identifies the caller."""
        with self._changed:
            if self._size + self._sending:
                self._paused[source] = resume
                return
        resume()  # all was sent meanwhile

    def stop(self, patience_s: float = _PATIENCE_S) -> None:
        """Send what is left, for at most ``patience_s``."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(patience_s)

    def _run(self) -> None:
        try:
            self._ship()
        except BaseException as error:  # without it every function that logs would be paused for ever
            log.exception("the shipper of logs died")
            self._on_failure(error)

    def _ship(self) -> None:
        while True:
            with self._changed:
                while not self._unsent and not self._stopped:
                    self._changed.wait()
                if not self._unsent:
                    return
                stopping = self._stopped
            if not stopping:
                time.sleep(_FLUSH_S)  # merges what many short calls write
            with self._changed:
                batch, self._unsent = self._unsent, {}
                self._sending, self._size = self._size, 0
            for stream, pieces in batch.items():
                self._send(stream, b"".join(pieces))
            with self._changed:
                self._sending = 0
                resumes, self._paused = list(self._paused.values()), {}
            for resume in resumes:
                resume()

    def _send(self, stream: str, data: bytes) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        for start in range(0, len(data), CHUNK_BYTES):
            chunk = data[start : start + CHUNK_BYTES]
            while not self._append(stream, chunk, force=time.monotonic() > deadline):
                time.sleep(_FLUSH_S)

    def _append(self, stream: str, chunk: bytes, *, force: bool) -> bool:
        try:
            word = self._store.run(
                logs.append(stream, chunk, most_chunks=_STREAM_CHUNKS, life_ms=_STREAM_LIFE_MS, drop_oldest=force)
            )
        except Unavailable:
            if force:
                self._drop(len(chunk))
            return force
        return word == "kept"

    def _drop(self, size: int) -> None:
        if not self.dropped_bytes:
            log.warning("function logs are dropped: Redis does not take them")
        self.dropped_bytes += size


class Source(Protocol):
    """Where the bytes of a log come from; both methods are for the links' thread."""

    def pause_reading(self) -> None:
        """Take nothing more, so that the function's output waits where it is."""

    def resume_reading(self) -> None:
        """Undo :meth:`pause_reading`."""


class LogBuffer:
    """The log of one process tree. Written from the links' thread and the invoking one."""

    def __init__(
        self, shipper: Shipper, spec: FunctionSpec, source: Source, loop: LoopThread, shown_characters: int = 0
    ) -> None:
        """``source`` is paused when logs can't be sent.

        ``shown_characters``: how much of each invocation's tail is repeated in the worker's own log, on level debug.
        """
        self._shipper = shipper
        self._function = spec.function
        self._source = source
        self._loop = loop
        self._shown = shown_characters
        self._stream = keys.log(spec.account, spec.region, spec.function)
        self._tail = bytearray()
        self._lock = threading.Lock()
        self._pausable = True

    def begin_invocation(self, line: str) -> None:
        """Start the tail with an invocation's START line, after what initialisation left there."""
        self._write(line.encode())

    def write(self, data: bytes) -> None:
        """Take what the function wrote."""
        if not self._write(data) and self._pausable:
            self._loop.call(self._source.pause_reading)
            self._shipper.when_sent(id(self), self._resume)

    def _resume(self) -> None:
        self._loop.call(self._source.resume_reading)

    def stop_pausing(self) -> None:
        """The environment is being killed, and what says that it is dead must not wait behind its log. On the links' thread."""
        self._pausable = False
        self._resume()

    def end_invocation(self, lines: str) -> bytes:
        """Write the invocation's last lines; answers its tail and starts the next one."""
        self._write(lines.encode())
        with self._lock:
            tail = bytes(self._tail[-TAIL_BYTES:])
            self._tail.clear()
        if self._shown and log.isEnabledFor(logging.DEBUG):
            shown = tail.decode(errors="replace")[-self._shown :]
            log.debug("a function wrote", extra={"function": self._function, "output": shown})
        return tail

    def _write(self, data: bytes) -> bool:
        with self._lock:
            self._tail += data[-TAIL_BYTES:]
            if len(self._tail) > 2 * TAIL_BYTES:
                del self._tail[:-TAIL_BYTES]
        return self._shipper.put(self._stream, data)
