"""The link as a state machine, without a relay: windows, order, and relays that break the rules."""

import json
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.link import frames
from workers.link.answers import (
    Answer,
    ApiRequest,
    End,
    Event,
    Exited,
    FunctionError,
    FunctionIdentity,
    InitFailed,
    LinkBroken,
    NotIdle,
    Response,
    Start,
    Started,
)
from workers.link.frames import Buffer, Decoder, Frame
from workers.link.relay_link import Link

CONFIG = Start(argv=["x"], env={}, cwd="/", function=FunctionIdentity("f", "1", "h"), response_limit=1000, api_limit=10)
EXIT = {"code": 1, "signal": None, "init_over": True, "oom": False, "memory_kb": 5, "error": ""}


class Wire:
    """A link, what it wrote, and what it told."""

    def __init__(self) -> None:
        self.sent: list[Frame] = []
        self.writes = 0
        self.logs = bytearray()
        self.idle = 0
        self.requests: list[ApiRequest] = []
        self.ends: list[End] = []
        self._decoder = Decoder()
        self.link = Link(
            self._write,
            on_log=self.logs.extend,
            on_idle=self._count,
            on_exit=self.ends.append,
            on_api=self.requests.append,
        )

    def _write(self, buffers: list[Buffer]) -> None:
        self.writes += 1
        self.sent += self._decoder.feed(b"".join(buffers))

    def _count(self) -> None:
        self.idle += 1

    def get(self, kind: int, payload: bytes | dict[str, Any] = b"", stream: int = 0) -> None:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.link.feed(frames.encode(kind, body, stream))

    def started(self) -> "Wire":
        self.link.start(CONFIG)
        self.get(frames.STARTED, {"pid": 7, "runtime_api": "127.0.0.1:1", "private_tmp": ""})
        self.get(frames.NEXT, {"memory_kb": 3, "init_ms": 1.5})
        self.sent.clear()
        return self

    def invoke(self, payload: bytes = b"{}") -> "Future[Answer]":
        return self.link.invoke(Event(request_id="r", deadline_ms=1, invoked_arn="a", payload=payload))

    def answer(self, body: bytes = b"1", kind: int = frames.RESPONSE) -> None:
        self.get(kind, {"request_id": "r", "content_type": "t", "error_type": "E"})
        self.get(frames.DATA, body)
        self.get(frames.END, {"memory_kb": 4})

    def data_sent(self, stream: int = 0) -> int:
        return sum(len(payload) for kind, where, payload in self.sent if kind == frames.DATA and where == stream)

    def state(self) -> tuple[str, int]:
        return self.link.state, self.idle

    def broken(self) -> str:
        (end,) = self.ends
        assert isinstance(end, LinkBroken)
        assert self.link.state == "ended"
        return str(end)


def test_a_link_lives_from_start_to_exit() -> None:
    wire = Wire()
    wire.link.start(CONFIG)
    assert wire.link.state == "starting"
    (kind, stream, payload) = wire.sent.pop()
    assert (kind, stream) == (frames.START, 0)
    assert json.loads(payload)["argv"] == ["x"]
    wire.get(frames.STARTED, {"pid": 7, "runtime_api": "127.0.0.1:1", "private_tmp": "on"})
    assert (wire.link.pid, wire.link.runtime_api, wire.link.private_tmp) == (7, "127.0.0.1:1", "on")
    wire.get(frames.NEXT, {"memory_kb": 3, "init_ms": 1.5})
    assert wire.link.started.result(0) == Started(1.5, 3)
    assert wire.state() == ("idle", 0)

    wire.writes = 0
    answer = wire.invoke()
    assert wire.writes == 1
    assert [kind for kind, _, _ in wire.sent] == [frames.EVENT, frames.DATA]
    assert wire.state() == ("busy", 0)
    wire.get(frames.LOG, b"hello")
    wire.answer()
    assert answer.result(0) == Response(b"1", "t", False, False, 4)
    assert wire.state() == ("busy", 0)
    wire.get(frames.NEXT, {"memory_kb": 6})
    assert wire.state() == ("idle", 1)
    assert wire.link.memory_kb == 6
    assert wire.logs == b"hello"

    answer = wire.invoke()
    wire.answer(b"{}", frames.ERROR)
    assert answer.result(0) == FunctionError(b"{}", "E", False, 4)
    wire.get(frames.EXIT, EXIT)
    assert wire.ends == [Exited(1, None, False, True, 5)]
    wire.link.closed()
    wire.link.kill()
    assert len(wire.ends) == 1
    with pytest.raises(NotIdle):
        wire.invoke().result(0)


def test_an_initialisation_error_is_the_answer_to_start() -> None:
    wire = Wire()
    wire.link.start(CONFIG)
    wire.answer(b"{}", frames.INIT_ERROR)
    assert wire.link.started.result(0) == InitFailed(b"{}", "E", 4)
    wire.get(frames.EXIT, EXIT | {"init_over": False})
    assert len(wire.ends) == 1


def test_an_exit_answers_whatever_is_open() -> None:
    wire = Wire()
    wire.link.start(CONFIG)
    wire.get(frames.EXIT, EXIT)
    assert wire.link.started.result(0) == wire.ends[0]
    wire = Wire().started()
    answer = wire.invoke()
    wire.get(frames.RESPONSE, {"request_id": "r", "content_type": ""})
    wire.get(frames.EXIT, EXIT)
    assert answer.result(0) == wire.ends[0]


def test_a_lost_relay_is_an_exception() -> None:
    wire = Wire()
    wire.link.start(CONFIG)
    wire.link.closed()
    with pytest.raises(LinkBroken):
        wire.link.started.result(0)
    wire = Wire().started()
    answer = wire.invoke()
    wire.link.closed()
    with pytest.raises(LinkBroken):
        answer.result(0)
    assert "without a word" in wire.broken()


def test_a_large_event_keeps_to_the_window() -> None:
    wire = Wire().started()
    size = 3 * frames.WINDOW
    answer = wire.invoke(bytes(size))
    assert wire.data_sent() == frames.WINDOW
    wire.get(frames.CREDIT, (300_000).to_bytes(4))
    assert wire.data_sent() == frames.WINDOW + 300_000
    # The runtime may answer before it has the whole event; the environment is idle only when that is out.
    wire.answer()
    assert answer.done()
    wire.get(frames.NEXT, {"memory_kb": 1})
    assert wire.state() == ("busy", 0)
    while wire.data_sent() < size:
        wire.get(frames.CREDIT, (500_000).to_bytes(4))
    assert wire.state() == ("idle", 1)
    # What was not credited is missing from the next event's window.
    before = wire.data_sent()
    wire.invoke(bytes(size))
    assert wire.data_sent() - before < frames.WINDOW


def test_many_small_events_live_on_credit() -> None:
    wire = Wire().started()
    unpaid = 0
    for _ in range(100):
        wire.invoke(bytes(50_000))
        unpaid += 50_000
        if unpaid >= frames.WINDOW // 4:
            wire.get(frames.CREDIT, unpaid.to_bytes(4))
            unpaid = 0
        wire.answer()
        wire.get(frames.NEXT, {"memory_kb": 1})
    assert wire.data_sent() == 5_000_000
    assert wire.idle == 100


def test_a_full_transport_makes_bodies_wait() -> None:
    wire = Wire().started()
    wire.link.pause_writing()
    wire.invoke(bytes(100))
    assert [kind for kind, _, _ in wire.sent] == [frames.EVENT]
    wire.link.kill()
    assert wire.sent[-1][0] == frames.KILL
    wire.link.resume_writing()
    assert wire.data_sent() == 100


def test_requests_to_the_api() -> None:
    wire = Wire().started()
    for stream in (1, 2, 3):
        wire.get(frames.API_REQUEST, {"method": "POST", "target": "/x?y", "headers": [["A", "b"]]}, stream)
    wire.get(frames.DATA, b"two", 2)
    wire.get(frames.DATA, b"one", 1)
    wire.get(frames.END, b"", 1)
    wire.get(frames.END, b"", 2)
    wire.get(frames.END, {"error": "aborted"}, 3)
    assert wire.requests == [
        ApiRequest(1, "POST", "/x?y", [("A", "b")], b"one"),
        ApiRequest(2, "POST", "/x?y", [("A", "b")], b"two"),
    ]
    size = frames.WINDOW + 10
    wire.link.respond(2, 200, [("C", "d")], bytes(size))
    wire.link.respond(1, 204, [], b"")
    assert wire.data_sent(2) == frames.WINDOW
    assert wire.sent[-1] == (frames.END, 1, b"")
    wire.get(frames.CREDIT, (262_144).to_bytes(4), 2)
    assert wire.data_sent(2) == size
    assert wire.sent[-1] == (frames.END, 2, b"")
    wire.get(frames.CREDIT, (262_144).to_bytes(4), 2)
    assert wire.ends == []


def test_who_gives_up_waiting_cancels_nothing() -> None:
    wire = Wire().started()
    assert not wire.link.started.cancel()
    answer = wire.invoke()
    assert not answer.cancel()
    wire.answer()
    assert answer.done()
    wire.get(frames.NEXT, {"memory_kb": 1})
    wire.sent.clear()
    given_up: Future[Answer] = Future()
    given_up.cancel()
    wire.link.invoke(Event(request_id="r", deadline_ms=1, invoked_arn="a"), given_up)
    assert wire.sent == []
    assert wire.link.state == "idle"
    with pytest.raises(CancelledError):
        given_up.result(0)


@pytest.mark.parametrize(
    "breach",
    [
        (frames.NEXT, b'{"memory_kb":1}', 0),
        (frames.STARTED, b'{"pid":1,"runtime_api":"","private_tmp":""}', 0),
        (frames.RESPONSE, b'{"request_id":"","content_type":""}', 0),
        (frames.INIT_ERROR, b'{"request_id":"","content_type":""}', 0),
        (frames.DATA, b"x", 0),
        (frames.END, b"{}", 0),
        (frames.DATA, b"x", 4),
        (frames.END, b"", 4),
        (frames.CREDIT, b"\0\0\0\1", 0),
        (frames.CREDIT, b"\0", 0),
        (frames.START, b"{}", 0),
        (0x99, b"", 0),
        (frames.EXIT, b"{}", 0),
        (frames.API_REQUEST, b"[]", 1),
        (frames.API_REQUEST, b'{"method":"","target":"","headers":[]}', 0),
    ],
)
def test_breaches_break_the_link(breach: tuple[int, bytes, int]) -> None:
    wire = Wire().started()
    wire.get(*breach)
    assert "broke the protocol" in wire.broken()


def test_bodies_over_their_limits_break_the_link() -> None:
    wire = Wire().started()
    answer = wire.invoke()
    wire.get(frames.RESPONSE, {"request_id": "r", "content_type": ""})
    wire.get(frames.DATA, bytes(1000))
    wire.get(frames.DATA, b"x")
    assert "over its limit" in wire.broken()
    assert isinstance(answer.exception(0), LinkBroken)
    wire = Wire().started()
    wire.get(frames.API_REQUEST, {"method": "", "target": "", "headers": []}, 1)
    wire.get(frames.DATA, bytes(11), 1)
    assert "over its limit" in wire.broken()


payloads = st.one_of(
    st.binary(max_size=20),
    st.just(b"{}"),
    st.just(b'{"memory_kb":1}'),
    st.just(b'{"request_id":"r","content_type":""}'),
    st.just(b'{"method":"","target":"","headers":[]}'),
    st.just(json.dumps(EXIT).encode()),
    st.just(b"\0\0\0\2"),
)
any_frames = st.lists(st.tuples(st.sampled_from(sorted(frames.type_names)), st.integers(0, 2), payloads), max_size=30)


@given(any_frames, st.booleans())
@settings(deadline=None)
def test_any_order_of_frames_ends_in_one_end_and_resolved_futures(some: list[Frame], busy: bool) -> None:
    wire = Wire().started()
    answer = wire.invoke() if busy else None
    for kind, stream, payload in some:
        wire.link.feed(frames.encode(kind, payload, stream))
    wire.link.closed()
    assert len(wire.ends) == 1
    assert wire.link.started.done()
    assert answer is None or answer.done()
