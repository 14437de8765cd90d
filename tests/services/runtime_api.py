"""A real Runtime API over HTTP, for runtimes started as plain processes, without a relay or a worker."""

import queue
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REQUEST_ID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:sample"
_PREFIX = "/2018-06-01/runtime"
_WAIT_S = 30.0

Cut = Callable[[bytes], Iterable[bytes]]


def whole(data: bytes) -> Iterable[bytes]:
    """Send a response in one piece."""
    return (data,)


def cut_by(seed: int) -> Cut:
    """Send responses in random small pieces, the same for the same seed."""

    def cut(data: bytes) -> Iterator[bytes]:
        choose = random.Random(seed)
        at = 0
        while at < len(data):
            size = choose.choice((1, 2, 3, 7, 60, 1000)) if at < 5000 else 200_000
            yield data[at : at + size]
            at += size

    return cut


@dataclass(frozen=True)
class Event:
    """What a runtime gets as its next invocation."""

    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """What a runtime posted."""

    path: str
    """Without the API's prefix: ``/invocation/<id>/response``."""
    body: bytes
    headers: Message
    """Found by any case of their names."""
    trailers: Mapping[str, str]

    @property
    def ending(self) -> str:
        """``response`` or ``error``."""
        return self.path.rpartition("/")[2]


@dataclass
class RuntimeApi:
    """The server's state; :func:`serve` starts it."""

    address: str = ""
    cut: Cut = whole
    chunked: bool = False
    status: int = 202
    """Answer to every report."""
    hasty: bool = False
    """Refuse reports as too large before their bodies are read, and close."""
    closes: bool = False
    """Close the connection after every response."""
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released once for each request for an event."""
    connections: int = 0
    events: "queue.Queue[Event | None]" = field(default_factory=queue.Queue)
    reports: "queue.Queue[Report]" = field(default_factory=queue.Queue)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 0
    api: RuntimeApi

    def setup(self) -> None:
        super().setup()
        self.api.connections += 1

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        pass

    def do_GET(self) -> None:
        assert self.path == f"{_PREFIX}/invocation/next"
        self.api.asked.release()
        event = self.api.events.get()
        if event is None:
            self.close_connection = True
            return
        self._answer(200, event.headers, event.body)

    def do_POST(self) -> None:
        assert self.path.startswith(_PREFIX)
        if self.api.hasty:
            self.wfile.write(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
            self.close_connection = True
            return
        trailers: dict[str, str] = {}
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._read_chunks(trailers)
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.api.reports.put(Report(self.path.removeprefix(_PREFIX), body, self.headers, trailers))
        self._answer(self.api.status, {}, b'{"status":"OK"}\n')

    def _read_chunks(self, trailers: dict[str, str]) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            assert self.rfile.readline() == b"\r\n"
        while (line := self.rfile.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            trailers[name] = value
        return body

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
        if self.api.closes:
            lines.append("Connection: close")
            self.close_connection = True
        if self.api.chunked:
            lines.append("Transfer-Encoding: chunked")
            middle = len(body) // 2
            parts = [part for part in (body[:middle], body[middle:]) if part]
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\nX-Trailer: 1\r\n\r\n"
        else:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines) + "\r\n\r\n"
        for piece in self.api.cut(head.encode("latin-1") + body):
            self.wfile.write(piece)


@contextmanager
def serve() -> Iterator[RuntimeApi]:
    """A Runtime API on a free loopback port."""
    api = RuntimeApi()
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    api.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield api
    finally:
        api.events.put(None)
        server.shutdown()
        thread.join()
        server.server_close()


class RuntimeProcess:
    """A runtime as a process of its own against a :class:`RuntimeApi`."""

    def __init__(self, api: RuntimeApi, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.api = api
        self.process = process
        self._output = output
        self._ended_with: bytes | None = None

    def next_report(self) -> Report:
        """The next thing that the runtime posts; fails when it ends without one."""
        for _ in range(int(_WAIT_S / 0.05)):
            try:
                return self.api.reports.get(timeout=0.05)
            except queue.Empty:
                if self.process.poll() is not None and self.api.reports.empty():
                    raise AssertionError(f"ended with {self.process.returncode}: {self.output}") from None
        raise AssertionError(f"no report within {_WAIT_S:g} s: {self.output}")

    def invoke(self, body: bytes = b"{}", **headers: str) -> Report:
        """Hand one event out and wait for what the runtime makes of it. Header names are written with ``_``."""
        self.send(body, **headers)
        return self.next_report()

    def send(self, body: bytes = b"{}", **headers: str) -> None:
        """Hand one event out."""
        standard = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": REQUEST_ID,
            "Lambda-Runtime-Deadline-Ms": str(int(time.time() * 1000) + 3_600_000),
            "Lambda-Runtime-Invoked-Function-Arn": ARN,
        }
        named = {"Lambda-Runtime-" + name.replace("_", "-"): value for name, value in headers.items()}
        self.api.events.put(Event(body, standard | named))

    def ends(self) -> int:
        """Wait for the process to end by itself; its status as in :attr:`subprocess.Popen.returncode`."""
        return self.process.wait(_WAIT_S)

    def wait_ready(self) -> None:
        """Wait until the runtime asks for an event."""
        assert self.api.asked.acquire(timeout=_WAIT_S), f"did not ask for an event: {self.output}"

    @property
    def output(self) -> str:
        """What the process wrote to standard output and standard error so far."""
        return (self._output.read_bytes() if self._ended_with is None else self._ended_with).decode()

    def end(self) -> None:
        """Kill the process; its output can still be read."""
        self.process.kill()
        self.process.wait()
        self._ended_with = self._output.read_bytes()


@contextmanager
def run(argv: Sequence[str], environment: Mapping[str, str], code_dir: Path) -> Iterator[RuntimeProcess]:
    """Start a runtime in ``code_dir`` with exactly ``environment`` and the API's address; kill it at the end."""
    with serve() as api, tempfile.NamedTemporaryFile() as output:
        variables = {**environment, "AWS_LAMBDA_RUNTIME_API": api.address}
        process = subprocess.Popen(
            argv, env=variables, cwd=code_dir, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        running = RuntimeProcess(api, process, Path(output.name))
        try:
            yield running
        finally:
            running.end()
