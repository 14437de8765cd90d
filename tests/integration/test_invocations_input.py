"""What people type at ``everwarm invocations``, and what may answer there: one line each, never a traceback."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.services.commands import Done, everwarm

HTML = b"<!doctype html>\n<title>\x1b[31mWelcome</title>\n" + b"<p>" * 1000
NOTHING = {"cancelled": 0, "request_ids": [], "more": False}


class FakeServer:
    """Answers every request with status 200 and the next of its answers, the last one for ever."""

    def __init__(self, endpoint: str, answers: list[bytes]) -> None:
        self.endpoint = endpoint
        self.answers = answers
        self.asked: list[dict[str, str]] = []
        """Filters, of the query or the body."""

    def command(self, *arguments: str) -> Done:
        """Run ``everwarm invocations`` with it."""
        return everwarm("invocations", *arguments, environ={"EVERWARM_ENDPOINT": self.endpoint})

    def error(self, *arguments: str) -> str:
        """The one line that a command ends with."""
        done = self.command(*arguments)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1), done
        assert done.err.startswith("everwarm: ")
        return done.err.removeprefix("everwarm: ").rstrip("\n")

    def answer(self, path: str, body: bytes) -> bytes:
        """Note what was asked."""
        self.asked.append(json.loads(body) if body else dict(parse_qsl(urlsplit(path).query)))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def serving(answers: list[bytes]) -> Iterator[FakeServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = found.answer(self.path, body)
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: Any) -> None:
            """Quietly."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = FakeServer(f"http://127.0.0.1:{server.server_port}", answers)
        Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        try:
            yield found
        finally:
            server.shutdown()


@pytest.fixture
def fake() -> Iterator[Callable[..., FakeServer]]:
    """Starts one with documents, or bytes, that it answers."""
    with ExitStack() as started:

        def start(*answers: object) -> FakeServer:
            bodies = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in answers]
            return started.enter_context(serving(bodies))

        yield start


@pytest.mark.parametrize("arguments", [("list",), ("get", "x"), ("cancel", "x"), ("cancel", "--all")])
@pytest.mark.parametrize("body", [HTML, b"", b"[1]", b"[" * 100_000])
def test_a_server_that_is_no_everwarm(fake: Callable[..., FakeServer], arguments: tuple[str, ...], body: bytes) -> None:
    server = fake(body)
    line = server.error(*arguments)
    assert line.startswith(f"server at {server.endpoint} answers as no Everwarm does: ")
    assert "\x1b" not in line
    assert len(line) < 300


def test_bytes_that_are_no_text(fake: Callable[..., FakeServer]) -> None:
    server = fake(NOTHING)
    bad = os.fsdecode(b"\xff")
    assert server.error("list", "--error", bad) == r"--error='\udcff': must be UTF-8"
    assert server.error("cancel", "--origin", bad) == r"--origin='\udcff': must be UTF-8"
    assert server.error("get", bad) == server.error("cancel", bad) == r"REQUEST_ID='\udcff': must be UTF-8"
    assert server.error("list", "--function", bad).startswith(r"--function='\udcff': must be")
    assert server.asked == []


def test_nothing_between_the_quotes(fake: Callable[..., FakeServer]) -> None:
    server = fake(NOTHING)
    assert server.error("get", "") == server.error("cancel", "") == "REQUEST_ID='': must not be empty"
    assert server.error("list", "--error", "") == "--error='': must not be empty"
    # What was meant is not known, so nothing is cancelled.
    assert server.error("cancel", "--function", "", "--lane", "event") == "--function='': must not be empty"
    assert server.asked == []


ARN = "arn:aws:lambda:eu-west-1:111111111111:function:f"
WHOLE = {"function": "f", "account": "111111111111", "region": "eu-west-1"}


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (("--function", "f"), {"function": "f"}),
        (("--function", "function:f"), {"function": "f"}),
        (("--function", "111111111111:function:f"), {"function": "f", "account": "111111111111"}),
        (("--function", "eu-west-1:111111111111:function:f"), WHOLE),
        (("--function", ARN), WHOLE),
        (("--function", ARN.replace("aws", "aws-cn", 1)), WHOLE),
        (("--function", ARN, "--region", "us-west-2"), {**WHOLE, "region": "us-west-2"}),
        (("--function", ARN, "--account", "222222222222", "--state", "fed"),
         {**WHOLE, "account": "222222222222", "state": "fed"}),
    ],
)  # fmt: skip
def test_a_function_is_named_in_each_form(
    fake: Callable[..., FakeServer], given: tuple[str, ...], asked: dict[str, str]
) -> None:
    server = fake({"invocations": []}, NOTHING)
    assert server.command("list", *given) == (0, "no invocations\n", "")
    assert server.command("cancel", *given) == (0, "cancelled 0 invocations\n", "")
    assert server.asked == [{**asked, "limit": "100"}, asked]


def test_a_qualifier_is_refused(fake: Callable[..., FakeServer]) -> None:
    server = fake(NOTHING)
    for text in ("f:live", "f:$LATEST", f"{ARN}:7", "111111111111:function:f:live"):
        for word in ("list", "cancel"):
            line = server.error(word, "--function", text)
            assert line.startswith(f"--function='{text}': must be without a version or an alias")
    for text in (ARN.replace("lambda", "sqs"), f"{ARN}:7:8", "a b", "arn:aws:lambda", "f:", ":"):
        line = server.error("cancel", "--function", text)
        assert line == f"--function='{text}': must be the name of a function, or its ARN"
    assert server.asked == []


def test_cancel_says_when_more_is_left(fake: Callable[..., FakeServer]) -> None:
    some = {"cancelled": 2, "request_ids": ["a", "b"], "more": True}
    none = {"cancelled": 0, "request_ids": [], "more": True}
    done = fake(some, none).command("cancel", "--all")
    assert done == (0, "cancelled 2 invocations; there are more, cancel again\n", "")
    assert fake(some, NOTHING).command("cancel", "--all") == (0, "cancelled 2 invocations\n", "")
    done = fake(some, none).command("cancel", "--all", "--json")
    assert json.loads(done.out) == {"cancelled": 2, "request_ids": ["a", "b"], "more": True}
