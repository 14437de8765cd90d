"""The worker's end of one relay: a state machine without I/O.

Bytes of the relay's stdout go into :meth:`Link.feed`, and what the relay is to read comes out through ``write``. One
thread (that of the event loop) calls everything here; the futures may be waited for in any thread. How an environment
or an invocation ended is a value; an exception in a future means that the platform failed (:class:`LinkBroken`).

::

    starting ──first NEXT──► idle ──invoke──► busy ──answer and NEXT──► idle
        └────────────┴─────── EXIT, or the link breaks ────┴──► ended

* :meth:`Link.start` sends START. ``link.started`` is then a future of :class:`Started`, :class:`InitFailed` or
  :class:`Exited`.
* :meth:`Link.invoke` answers a future of :class:`Response`, :class:`FunctionError` or :class:`Exited`, which is resolved
  as soon as the answer is whole. The environment is idle again (``on_idle``) only when the runtime asks for the next
  event. To call it from another thread make the future there:
  ``loop.call_soon_threadsafe(link.invoke, event, future)``.
* :meth:`Link.kill` ends the environment at any time; ``on_exit`` follows.
* ``on_log(bytes)`` gets all log bytes in the order written, before the answer that they precede.
* ``on_api(ApiRequest)`` gets a request of the function to the Lambda API, whole; :meth:`Link.respond` answers it.
* ``on_exit(Exited | LinkBroken)`` is called exactly once, after the futures it resolves.

``workers/link/process_relay.py`` runs a relay as a child process and ties its pipes to a link.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Final, Literal

import msgspec

from workers.link import frames
from workers.link.answers import (
    API_LIMIT_BYTES,
    RESPONSE_LIMIT_BYTES,
    Answer,
    ApiRequest,
    End,
    Event,
    Exited,
    FunctionError,
    InitFailed,
    LinkBroken,
    NotIdle,
    Response,
    Start,
    StartAnswer,
    Started,
)
from workers.link.frames import Buffer, Decoder, FrameError

ONE_WRITE_BYTES: Final = 64 * 1024
"""Events up to this size are copied into one buffer with their head: one system call is cheaper than no copy."""

State = Literal["new", "starting", "idle", "busy", "ended"]


class _EventHead(msgspec.Struct):
    request_id: str
    deadline_ms: int
    invoked_arn: str
    trace_id: str
    client_context: str
    cognito_identity: str
    length: int


class _StartedFrame(msgspec.Struct):
    pid: int
    runtime_api: str
    private_tmp: str


class _NextFrame(msgspec.Struct):
    memory_kb: int
    init_ms: float = 0.0


class _AnswerHead(msgspec.Struct):
    request_id: str
    content_type: str
    streaming: bool = False
    error_type: str = ""


class _AnswerEnd(msgspec.Struct):
    memory_kb: int
    too_large: bool = False
    error: str = ""
    error_type: str = ""
    error_body: str = ""


class _ExitFrame(msgspec.Struct):
    code: int | None
    signal: int | None
    init_over: bool
    oom: bool
    memory_kb: int
    error: str
    disk_full: bool = False


class _ApiHead(msgspec.Struct):
    method: str
    target: str
    headers: list[tuple[str, str]]


class _ApiEnd(msgspec.Struct):
    error: str = ""


_encode: Final = msgspec.json.Encoder().encode
_started: Final = msgspec.json.Decoder(_StartedFrame)
_next: Final = msgspec.json.Decoder(_NextFrame)
_answer_head: Final = msgspec.json.Decoder(_AnswerHead)
_answer_end: Final = msgspec.json.Decoder(_AnswerEnd)
_exit: Final = msgspec.json.Decoder(_ExitFrame)
_api_head: Final = msgspec.json.Decoder(_ApiHead)
_api_end: Final = msgspec.json.Decoder(_ApiEnd)

_PING: Final = frames.encode(frames.PING)
_ANSWERS: Final = (frames.RESPONSE, frames.ERROR, frames.INIT_ERROR)


class _Incoming:
    """A body under way from the relay."""

    __slots__ = ("head", "kind", "parts", "size")

    def __init__(self, kind: int, head: _AnswerHead | _ApiHead) -> None:
        self.kind = kind
        self.head = head
        self.parts: list[bytes] = []
        self.size = 0

    def body(self) -> bytes:
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)


class _Outgoing:
    """Bodies under way to the relay on one stream, within the window that its credit leaves."""

    __slots__ = ("last", "rest", "room", "stream")

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.room = frames.WINDOW
        self.rest = memoryview(b"")
        self.last = b""

    def take(self) -> list[Buffer]:
        """The buffers that may be sent now."""
        size = min(len(self.rest), self.room)
        buffers = list(frames.encode_data(self.rest[:size], self.stream))
        self.rest = self.rest[size:]
        self.room -= size
        if not self.rest and self.last:
            buffers.append(self.last)
            self.last = b""
        return buffers


class Link:
    """One relay. ``write`` takes buffers for the relay's stdin and must not block."""

    def __init__(
        self,
        write: Callable[[list[Buffer]], None],
        *,
        on_log: Callable[[bytes], None],
        on_idle: Callable[[], None],
        on_exit: Callable[[End], None],
        on_api: Callable[[ApiRequest], None] | None = None,
    ) -> None:
        self.started: Future[StartAnswer] = Future()
        # Running, so that nobody who gives up waiting cancels it.
        self.started.set_running_or_notify_cancel()
        self.state: State = "new"
        self.pid: int | None = None
        """The runtime's process, once it runs."""
        self.runtime_api = ""
        """Address of the Runtime API that the relay serves."""
        self.private_tmp = ""
        """``on``, empty when not asked for, else why it is not private."""
        self.memory_kb = 0
        """Peak of the environment, as of the last frame that told."""
        self._write = write
        self._on_log = on_log
        self._on_idle = on_idle
        self._on_exit = on_exit
        self._on_api = on_api
        self._decoder = Decoder()
        self._answer: Future[Answer] | None = None
        self._pings: deque[Future[None]] = deque()
        self._asked = False
        self._paused = False
        self._response_limit = RESPONSE_LIMIT_BYTES
        self._api_limit = API_LIMIT_BYTES
        self._incoming: dict[int, _Incoming] = {}
        self._event = _Outgoing(0)
        self._outgoing: dict[int, _Outgoing] = {0: self._event}

    # To the relay

    def start(self, config: Start) -> Future[StartAnswer]:
        """Send START; the answer is ``started``. Raises :class:`FrameError` for a configuration over 256 KiB."""
        frame = frames.encode(frames.START, _encode(config))
        if self.state == "new":
            self.state = "starting"
            self._response_limit = config.response_limit
            self._api_limit = config.api_limit
            self._write([frame])
        return self.started

    def invoke(self, event: Event, answer: "Future[Answer] | None" = None) -> "Future[Answer]":
        """Hand an event to the runtime.

        ``answer`` may be made beforehand; cancelled before this call, nothing is sent, and after it can't be cancelled.
        The future holds :class:`NotIdle` when the link is not idle.
        """
        future: Future[Answer] = Future() if answer is None else answer
        if not future.set_running_or_notify_cancel():
            return future
        if self.state != "idle":
            future.set_exception(NotIdle(f"the environment is {self.state}"))
            return future
        self.state = "busy"
        self._asked = False
        self._answer = future
        self._send_event(event)
        return future

    def _send_event(self, event: Event) -> None:
        payload = event.payload
        head = _EventHead(
            event.request_id,
            event.deadline_ms,
            event.invoked_arn,
            event.trace_id,
            event.client_context,
            event.cognito_identity,
            len(payload),
        )
        frame = frames.encode(frames.EVENT, _encode(head))
        if len(payload) <= min(ONE_WRITE_BYTES, self._event.room) and not self._paused:
            self._event.room -= len(payload)
            self._write([frame + frames.encode(frames.DATA, payload) if payload else frame])
            return
        self._event.rest = memoryview(payload)
        self._write([frame])
        self._pump(self._event)

    def kill(self) -> None:
        """Have the relay kill the process tree; ``on_exit`` follows. Harmless when it is gone already."""
        if self.state not in ("new", "ended"):
            self._write([frames.encode(frames.KILL)])

    def ping(self, answer: "Future[None]") -> None:
        """Ask whether the relay runs; ``answer`` is resolved when it says so, or at once when it is gone."""
        if self.state in ("new", "ended"):
            answer.set_result(None)
            return
        self._pings.append(answer)
        self._write([_PING])

    def respond(self, stream: int, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """Answer an :class:`ApiRequest`; dropped when the environment is gone."""
        if self.state == "ended":
            return
        outgoing = self._outgoing[stream] = _Outgoing(stream)
        outgoing.rest = memoryview(body)
        outgoing.last = frames.encode(frames.END, stream=stream)
        head = _encode({"status": status, "headers": list(headers)})
        self._write([frames.encode(frames.API_RESPONSE, head, stream)])
        self._pump(outgoing)

    def pause_writing(self) -> None:
        """The transport is full: bodies wait."""
        self._paused = True

    def resume_writing(self) -> None:
        """The transport has room again."""
        self._paused = False
        for outgoing in list(self._outgoing.values()):
            self._pump(outgoing)

    def _pump(self, outgoing: _Outgoing) -> None:
        if self._paused:
            return
        buffers = outgoing.take()
        if buffers:
            self._write(buffers)
        if outgoing.stream and not outgoing.rest and not outgoing.last:
            self._outgoing.pop(outgoing.stream, None)

    # From the relay

    def feed(self, data: bytes) -> None:
        """Take bytes of the relay's stdout. After a :class:`FrameError` the link is broken, and ``on_exit`` was told."""
        if self.state == "ended":
            return
        try:
            for kind, stream, payload in self._decoder.feed(data):
                self._take(kind, stream, payload)
        except (FrameError, msgspec.DecodeError) as error:
            self._end(LinkBroken(f"the relay broke the protocol: {error}"))

    def closed(self) -> None:
        """The relay's stdout is closed."""
        if self.state != "ended":
            self._end(LinkBroken("the relay ended without a word"))

    def _take(self, kind: int, stream: int, payload: bytes) -> None:
        if self.state == "ended":
            raise FrameError("a frame after EXIT")
        if kind == frames.LOG:
            self._on_log(payload)
        elif kind == frames.DATA:
            self._take_data(stream, payload)
        elif kind == frames.END:
            self._take_end(stream, payload)
        elif kind in _ANSWERS:
            self._take_answer(kind, payload)
        elif kind == frames.NEXT:
            self._take_next(_next.decode(payload))
        elif kind == frames.CREDIT:
            self._take_credit(stream, payload)
        else:
            self._take_rare(kind, stream, payload)

    def _take_rare(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == frames.STARTED:
            self._take_started(_started.decode(payload))
        elif kind == frames.PONG and self._pings:
            self._pings.popleft().set_result(None)
        elif kind == frames.EXIT:
            self._take_exit(_exit.decode(payload))
        elif kind == frames.API_REQUEST and stream and stream not in self._incoming:
            self._incoming[stream] = _Incoming(kind, _api_head.decode(payload))
        else:
            name = frames.type_names.get(kind, f"type 0x{kind:02x}")
            raise FrameError(f"{name} on stream {stream} in state {self.state}")

    def _take_started(self, frame: _StartedFrame) -> None:
        if self.state != "starting" or self.pid is not None:
            raise FrameError(f"STARTED in state {self.state}")
        self.pid = frame.pid
        self.runtime_api = frame.runtime_api
        self.private_tmp = frame.private_tmp

    def _take_next(self, frame: _NextFrame) -> None:
        self.memory_kb = frame.memory_kb
        if self.state == "starting" and not self.started.done():
            self.state = "idle"
            self.started.set_result(Started(frame.init_ms, frame.memory_kb))
        elif self.state == "busy" and self._answer is None and not self._asked:
            self._asked = True
            self._become_idle()
        else:
            raise FrameError(f"NEXT in state {self.state}")

    def _become_idle(self) -> None:
        """The link is idle when the runtime asks for an event, and the rest of the event before has been sent."""
        if self._asked and not self._event.rest:
            self.state = "idle"
            self._on_idle()

    def _take_answer(self, kind: int, payload: bytes) -> None:
        due = self.state == "starting" if kind == frames.INIT_ERROR else self._answer is not None
        if not due or 0 in self._incoming:
            raise FrameError(f"{frames.type_names[kind]} in state {self.state}")
        self._incoming[0] = _Incoming(kind, _answer_head.decode(payload))

    def _take_data(self, stream: int, payload: bytes) -> None:
        incoming = self._incoming.get(stream)
        if incoming is None:
            raise FrameError(f"DATA on stream {stream}, where no body is due")
        incoming.size += len(payload)
        if incoming.size > (self._api_limit if stream else self._response_limit):
            raise FrameError(f"a body over its limit on stream {stream}")
        incoming.parts.append(payload)

    def _take_end(self, stream: int, payload: bytes) -> None:
        incoming = self._incoming.pop(stream, None)
        if incoming is None:
            raise FrameError(f"END on stream {stream}, where no body is due")
        if isinstance(incoming.head, _ApiHead):
            self._finish_request(stream, incoming.head, incoming, payload)
        else:
            self._finish_answer(incoming.head, incoming, _answer_end.decode(payload))

    def _finish_request(self, stream: int, head: _ApiHead, incoming: _Incoming, payload: bytes) -> None:
        if payload and _api_end.decode(payload).error:
            return
        if self._on_api is None:
            raise FrameError("API_REQUEST, which START did not ask for")
        self._on_api(ApiRequest(stream, head.method, head.target, head.headers, incoming.body()))

    def _finish_answer(self, head: _AnswerHead, incoming: _Incoming, end: _AnswerEnd) -> None:
        self.memory_kb = end.memory_kb
        body = b"" if end.too_large else incoming.body()
        if incoming.kind == frames.INIT_ERROR:
            self.started.set_result(InitFailed(body, head.error_type, end.memory_kb))
            return
        future, self._answer = self._answer, None
        if future is None:
            raise FrameError("the end of an answer that nobody waits for")
        if incoming.kind == frames.ERROR:
            future.set_result(FunctionError(body, head.error_type, end.too_large, end.memory_kb))
            return
        future.set_result(
            Response(
                body,
                head.content_type,
                head.streaming,
                end.too_large,
                end.memory_kb,
                end.error,
                end.error_type,
                end.error_body,
            )
        )

    def _take_credit(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise FrameError("CREDIT is not 4 bytes")
        outgoing = self._outgoing.get(stream)
        if outgoing is None:  # its body is sent already
            return
        outgoing.room += int.from_bytes(payload)
        if outgoing.room > frames.WINDOW:
            raise FrameError(f"more CREDIT on stream {stream} than DATA was sent")
        self._pump(outgoing)
        if not stream:
            self._become_idle()

    def _take_exit(self, frame: _ExitFrame) -> None:
        self.memory_kb = max(self.memory_kb, frame.memory_kb)
        self._end(
            Exited(frame.code, frame.signal, frame.oom, frame.init_over, frame.memory_kb, frame.error, frame.disk_full)
        )

    def _end(self, end: End) -> None:
        self.state = "ended"
        self._incoming.clear()
        self._outgoing.clear()
        answer, self._answer = self._answer, None
        while self._pings:
            self._pings.popleft().set_result(None)
        if isinstance(end, LinkBroken):
            if not self.started.done():
                self.started.set_exception(end)
            if answer is not None:
                answer.set_exception(end)
        else:
            if not self.started.done():
                self.started.set_result(end)
            if answer is not None:
                answer.set_result(end)
        self._on_exit(end)
