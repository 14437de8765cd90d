"""The frame codec: equal to FRAMES.md, and unmoved by anything that arrives."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.link import frames
from workers.link.frames import Decoder, Frame, FrameError

PAGE = Path(frames.__file__).parents[1] / "relay" / "FRAMES.md"

some_frames = st.lists(
    st.tuples(st.sampled_from(sorted(frames.type_names)), st.integers(0, 2**32 - 1), st.binary(max_size=300))
)


def rows(pattern: str) -> dict[str, int]:
    return {name: int(value, 0) for name, value in re.findall(pattern, PAGE.read_text(), re.MULTILINE)}


def test_the_numbers_are_those_of_the_page() -> None:
    types = rows(r"^\| ([A-Z_]+) \| (0x[0-9a-f]{2}) \|")
    assert types == {name: number for number, name in frames.type_names.items()}
    assert types == {name: getattr(frames, name) for name in types}
    constants = rows(r"^\| ([A-Z_]+) \| (\d+) \|")
    assert constants == {name: getattr(frames, name) for name in ("HEADER_BYTES", "MAX_PAYLOAD", "WINDOW")}


def joined(some: list[Frame]) -> bytes:
    return b"".join(frames.encode(kind, payload, stream) for kind, stream, payload in some)


@given(some_frames, st.lists(st.integers(1, 400)))
@settings(deadline=None)
def test_frames_arrive_whole_however_they_are_cut(sent: list[Frame], cuts: list[int]) -> None:
    data, decoder, got = joined(sent), Decoder(), list[Frame]()
    for cut in cuts:
        got += decoder.feed(data[:cut])
        data = data[cut:]
    got += decoder.feed(data)
    assert got == sent
    assert decoder.pending == 0


@given(some_frames, st.data())
@settings(deadline=None)
def test_what_is_cut_off_stays_pending(sent: list[Frame], data: st.DataObject) -> None:
    stream = joined(sent)
    cut = data.draw(st.integers(0, len(stream)))
    decoder = Decoder()
    got = decoder.feed(stream[:cut])
    assert got == sent[: len(got)]
    assert decoder.pending == cut - len(joined(got))


@given(st.lists(st.binary(max_size=200)))
@settings(deadline=None)
def test_any_bytes_are_frames_or_an_error_and_little_is_kept(pieces: list[bytes]) -> None:
    decoder = Decoder()
    for piece in pieces:
        try:
            got = decoder.feed(piece)
        except FrameError:
            return
        assert all(len(payload) <= frames.MAX_PAYLOAD for _, _, payload in got)
        assert decoder.pending < frames.HEADER_BYTES + frames.MAX_PAYLOAD


@pytest.mark.parametrize("length", [0, 4, 5 + frames.MAX_PAYLOAD + 1, 2**32 - 1])
def test_a_wrong_length_is_an_error_before_the_payload_is_there(length: int) -> None:
    with pytest.raises(FrameError, match=f"length {length}"):
        Decoder().feed(length.to_bytes(4) + bytes(5))


def test_the_largest_payload_passes_and_a_larger_one_does_not() -> None:
    payload = bytes(frames.MAX_PAYLOAD)
    assert Decoder().feed(frames.encode(frames.LOG, payload, 7)) == [(frames.LOG, 7, payload)]
    with pytest.raises(FrameError, match="over 262144"):
        frames.encode(frames.LOG, payload + b"x")


@given(st.integers(0, 3), st.integers(0, 9))
@settings(deadline=None)
def test_a_body_becomes_data_frames_without_copies(whole: int, rest: int) -> None:
    body = bytes(whole * frames.MAX_PAYLOAD + rest)
    buffers = list(frames.encode_data(memoryview(body), 3))
    assert all(buffer.obj is body for buffer in buffers[1::2] if isinstance(buffer, memoryview))
    got = Decoder().feed(b"".join(buffers))
    assert [(kind, stream) for kind, stream, _ in got] == [(frames.DATA, 3)] * len(got)
    assert b"".join(payload for _, _, payload in got) == body
