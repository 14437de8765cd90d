"""The relay socket: a real relay that is told a socket of the worker's, driven by a worker's end made of plain sockets."""

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.services.relay import ECHO, program
from tests.services.waiting import wait_until
from workers.link import frames
from workers.link.answers import FunctionIdentity, Start
from workers.link.frames import Decoder, Frame
from workers.modes.docker.relay_socket import RelaySocket
from workers.relay import binaries

WAIT_S: Final = 20.0


class Relay:
    """Its process, and what came over its standard output."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [str(binaries.host_binary())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def read(self, decoder: Decoder) -> list[Frame]:
        assert self.process.stdout is not None
        return list(decoder.feed(self.process.stdout.read(1 << 16)))

    def start(self, worker_socket: str) -> None:
        config = Start(
            argv=program(ECHO), env={}, cwd="/", function=FunctionIdentity("f", "1", "h"), worker_socket=worker_socket
        )  # fmt: skip
        self.write(frames.encode(frames.START, msgspec.json.encode(config)))

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait(WAIT_S)


@pytest.fixture
def relay() -> Iterator[Relay]:
    found = Relay()
    yield found
    found.close()


@pytest.fixture
def relay_socket() -> Iterator[RelaySocket]:
    # The relay connects by the path, of which the kernel takes 107 bytes; in a container it is short.
    with tempfile.TemporaryDirectory() as folder:
        found = RelaySocket(Path(folder), "e" * 32)
        yield found
        found.remove()
        assert not list(Path(folder).iterdir())


def until(kind: int, source: socket.socket, decoder: Decoder) -> list[Frame]:
    """All frames up to the first of that kind."""
    source.settimeout(WAIT_S)
    found: list[Frame] = []
    while not any(frame[0] == kind for frame in found):
        data = source.recv(1 << 16)
        assert data, f"it ended before {frames.type_names[kind]}"
        found += decoder.feed(data)
    return found


def test_frames_go_by_the_socket(relay: Relay, relay_socket: RelaySocket) -> None:
    with relay_socket.listen() as listener:
        relay.start(f"{relay_socket.mount[0]}/relay")
        listener.settimeout(WAIT_S)
        connection, _ = listener.accept()
    with connection:
        decoder = Decoder()
        kinds = [kind for kind, _, _ in until(frames.NEXT, connection, decoder)]
        assert kinds == [frames.STARTED, frames.NEXT]
        head = {
            "request_id": "r", "deadline_ms": 1, "invoked_arn": "a", "trace_id": "", "client_context": "",
            "cognito_identity": "", "length": 2,
        }  # fmt: skip
        event = frames.encode(frames.EVENT, msgspec.json.encode(head)) + frames.encode(frames.DATA, b"{}")
        connection.sendall(event + frames.encode(frames.PING))
        found = until(frames.END, connection, decoder)
        assert frames.RESPONSE in [kind for kind, _, _ in found]
        assert b"{}" in [payload for kind, _, payload in found if kind == frames.DATA]
        # Nobody else gets in: whoever tries from the function's side finds nobody.
        with socket.socket(socket.AF_UNIX) as other, pytest.raises(ConnectionRefusedError):
            other.connect(f"{relay_socket.mount[0]}/relay")
        # What is still written to standard input counts as well.
        relay.write(frames.encode(frames.KILL))
        until(frames.EXIT, connection, decoder)


@pytest.mark.parametrize("way", ["socket", "input"])
def test_the_relay_ends_with_its_socket_or_its_input(relay: Relay, relay_socket: RelaySocket, way: str) -> None:
    with relay_socket.listen() as listener:
        relay.start(f"{relay_socket.mount[0]}/relay")
        listener.settimeout(WAIT_S)
        connection, _ = listener.accept()
    with connection:
        until(frames.NEXT, connection, Decoder())
        if way == "socket":
            connection.close()
        else:
            assert relay.process.stdin is not None
            relay.process.stdin.close()
        wait_until("the relay has ended", lambda: relay.process.poll() is not None)


def test_without_a_listener_everything_goes_by_the_stream(relay: Relay, relay_socket: RelaySocket) -> None:
    relay.start(f"{relay_socket.mount[0]}/relay")  # nobody listens there
    decoder = Decoder()
    kinds: list[int] = []

    def asked() -> bool:
        kinds.extend(kind for kind, _, _ in relay.read(decoder))
        return frames.NEXT in kinds

    wait_until("it asks for an event by the stream", asked)
    assert kinds == [frames.STARTED, frames.NEXT]
