"""A real relay with a runtime made for the test, driven from the test's own thread."""

import asyncio
import os
import shutil
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.services import processes
from tests.services.waiting import wait_until
from workers.link.answers import Answer, ApiRequest, End, Event, Exited, FunctionIdentity, Start, StartAnswer
from workers.link.process_relay import RelayProcess, spawn

T = TypeVar("T")
WAIT_S = 20.0

PRELUDE = """
import http.client, json, os, signal, subprocess, sys, time
API = os.environ["AWS_LAMBDA_RUNTIME_API"]
RUNTIME = "/2018-06-01/runtime/"
connection = http.client.HTTPConnection(API)
def call(method, path, body=None, headers={}):
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()
def next_event():
    status, headers, body = call("GET", RUNTIME + "invocation/next")
    return headers["Lambda-Runtime-Aws-Request-Id"], body, headers
def respond(request_id, body, headers={}):
    return call("POST", RUNTIME + f"invocation/{request_id}/response", body, headers)
def fail(request_id, body, kind):
    headers = {"Lambda-Runtime-Function-Error-Type": kind}
    return call("POST", RUNTIME + f"invocation/{request_id}/error", body, headers)
"""
ECHO = """
while True:
    request_id, body, _ = next_event()
    respond(request_id, body)
"""


def public_python() -> str:
    """A Python that every user may run; under root that of the tests often is not."""
    candidates = [os.path.realpath(sys.executable), shutil.which("python3", path="/usr/bin:/bin") or ""]
    for candidate in filter(None, candidates):
        if all(parent.stat().st_mode & 0o001 for parent in Path(candidate).resolve().parents):
            return candidate
    pytest.fail("no python3 that every user may run: apt-get install python3")


def program(code: str, python: str = sys.executable) -> list[str]:
    """The command for a runtime written in Python on top of :data:`PRELUDE`."""
    return [python, "-I", "-S", "-c", PRELUDE + code]


class Environment:
    """One relay and its runtime."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.logs = bytearray()
        self.requests: list[ApiRequest] = []
        self.ends: list[End] = []
        self.on_api: Callable[[ApiRequest], None] = self.requests.append
        self._loop = loop
        self._idle = threading.Event()
        self._relay: RelayProcess

    def _take_request(self, request: ApiRequest) -> None:
        self.on_api(request)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call something of the link on the loop's thread."""

        async def work() -> T:
            return function(*arguments)

        return self._run(work())

    def open(self, config: Start, private_tmp: str = "", keep: Sequence[str] = ()) -> "Environment":
        self._relay = self._run(
            spawn(
                on_log=self.logs.extend,
                on_idle=self._idle.set,
                on_exit=self.ends.append,
                on_api=self._take_request,
                private_tmp=private_tmp,
                keep=keep,
            )
        )
        self.link = self._relay.link
        self.call(self.link.start, config)
        return self

    @property
    def relay_pid(self) -> int:
        return self._relay.pid

    @property
    def started(self) -> StartAnswer:
        return self.link.started.result(WAIT_S)

    def send(self, payload: bytes = b"{}", request_id: str = "r1", **members: Any) -> "Future[Answer]":
        self._idle.clear()
        event = Event(request_id=request_id, deadline_ms=1234, invoked_arn="arn:f", payload=payload, **members)
        return self.call(self.link.invoke, event)

    def invoke(self, payload: bytes = b"{}", request_id: str = "r1", **members: Any) -> Answer:
        return self.send(payload, request_id, **members).result(WAIT_S)

    def wait_idle(self) -> None:
        assert self._idle.wait(WAIT_S), "the runtime did not ask for another event"

    def kill(self) -> None:
        self.call(self.link.kill)

    def end(self) -> End:
        return wait_until("the environment has ended", lambda: self.ends, WAIT_S)[0]

    def exited(self) -> Exited:
        end = self.end()
        assert isinstance(end, Exited), end
        return end

    def tree(self) -> list[processes.Process]:
        """The processes below the relay."""
        return [process for process in processes.tree([self.relay_pid]) if process.pid != self.relay_pid]

    def relay_status(self) -> int:
        """How the relay ended."""

        async def work() -> int:
            return await self._relay.gone

        return self._run(work())

    def close_input(self) -> None:
        self.call(self._relay.close_input)

    def pause_reading(self) -> None:
        self.call(self._relay.pause_reading)

    def resume_reading(self) -> None:
        self.call(self._relay.resume_reading)

    def write(self, data: bytes) -> None:
        self.call(self._relay.write, [data])

    def close(self) -> None:
        self._run(self._relay.close())


class Environments:
    """Makes environments, and ends them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open: list[Environment] = []

    def start(
        self, argv: Sequence[str], *, private_tmp: str = "", keep: Sequence[str] = (), **members: Any
    ) -> Environment:
        members.setdefault("env", {"PATH": os.environ["PATH"]})
        members.setdefault("function", FunctionIdentity("f", "1", "h"))
        config = Start(argv=argv, cwd="/", **members)
        environment = Environment(self._loop)
        self._open.append(environment)
        return environment.open(config, private_tmp, keep)

    def close(self) -> None:
        for environment in self._open:
            environment.close()


def running_environments() -> Iterator[Environments]:
    """For a fixture: a loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="relay test loop")
    thread.start()
    made = Environments(loop)
    try:
        yield made
    finally:
        made.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
