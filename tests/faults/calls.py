"""A function to try faults on, and calls that tell how they ended instead of raising."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from mypy_boto3_lambda import LambdaClient

from tests.services.code import zip_of
from tests.services.local import python_runtime
from tests.services.processes import Process, everything
from tests.services.stack import Stack
from tests.services.waiting import wait_until
from workers.contract import keys
from workers.contract.broker import queue
from workers.disk.run_directory import PREFIX

ROLE: Final = "arn:aws:iam::000000000000:role/r"
#: Sleeps ``s`` seconds; says which process it is, and how many calls that process has had.
CODE: Final = """\
import os, time
calls = 0
def handler(event, context):
    global calls
    calls += 1
    time.sleep(event.get("s", 0))
    return {"n": event.get("n"), "calls": calls, "pid": os.getpid()}
"""


@dataclass(frozen=True)
class Answer:
    """How a call ended."""

    status: int
    """HTTP status; 0 when the connection broke."""
    error: str
    """AWS's exception, or botocore's for a broken connection; else ``FunctionError``; else empty."""
    message: str
    body: Any
    took_s: float

    @property
    def good(self) -> bool:
        return self.status == 200 and not self.error

    @property
    def refused(self) -> bool:
        """The platform says that it can't, which a client may try again."""
        return self.status == 429 or self.status >= 500


class Caller:
    """Calls one function of a stack, from any thread."""

    def __init__(self, client: LambdaClient, name: str) -> None:
        self.client = client
        self.name = name

    def __call__(self, **event: Any) -> Answer:
        """Call it and wait."""
        began = time.monotonic()
        try:
            response = self.client.invoke(FunctionName=self.name, Payload=json.dumps(event).encode())
            body = json.loads(response["Payload"].read())
            error, message, status = response.get("FunctionError", ""), "", response["StatusCode"]
        except ClientError as caught:
            body = caught.response
            status = caught.response["ResponseMetadata"]["HTTPStatusCode"]
            error, message = caught.response["Error"]["Code"], caught.response["Error"]["Message"]
        except BotoCoreError as caught:
            body, status, error, message = None, 0, type(caught).__name__, str(caught)
        return Answer(status, error, message, body, time.monotonic() - began)

    def begin(self, **event: Any) -> "Future[Answer]":
        """Call it in a thread."""
        future: Future[Answer] = Future()

        def run() -> None:
            try:
                future.set_result(self(**event))
            except BaseException as error:  # noqa: BLE001 - raised again where the answer is wanted
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    def wait_until_good(self, timeout_s: float = 10.0, **event: Any) -> Answer:
        """Call it until it answers rightly; each call must answer by itself."""
        answers: list[Answer] = []

        def good() -> bool:
            answers.append(self(**event))
            return answers[-1].good

        try:
            wait_until(f"{self.name} answers", good, timeout_s, every_s=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}; answers: {answers[-5:]}") from None
        return answers[-1]


def create(
    client: LambdaClient, name: str = "work", code: str = CODE, timeout_s: int = 30, memory_mb: int = 256
) -> Caller:
    """Create the function and wait until it is active."""
    client.create_function(
        FunctionName=name,
        Runtime=python_runtime(),
        Handler="index.handler",
        Role=ROLE,
        Code={"ZipFile": zip_of(index__py=code)},
        Timeout=timeout_s,
        MemorySize=memory_mb,
    )
    wait_until(
        f"{name} is active", lambda: client.get_function(FunctionName=name)["Configuration"]["State"] == "Active"
    )
    return Caller(client, name)


def caller(stack: Stack, name: str = "work", **options: Any) -> Caller:
    """The function, created in a stack."""
    return create(stack.client(max_pool_connections=64), name, **options)


# --- what a stack does at the moment ---


def running(stack: Stack) -> int:
    """Claimed invocations that have not ended."""
    client = stack.redis.client
    with client.pipeline(transaction=False) as pipe:  # one by one, of thousands, takes longer than what is looked for
        for key in client.scan_iter(keys.invocation("*"), count=1000):
            pipe.hget(key.decode(), "state")
        return pipe.execute().count(b"run")


def wait_until_running(stack: Stack, count: int = 1, timeout_s: float = 10.0) -> None:
    """Until so many invocations are claimed and under way."""
    wait_until(f"{count} invocations run", lambda: running(stack) >= count, timeout_s)


def counted(stack: Stack) -> int:
    """Entries in all concurrency sets."""
    client = stack.redis.client
    return sum(client.zcard(key.decode()) for key in client.scan_iter("everwarm:concurrency:*", count=1000))


def wait_until_quiet(stack: Stack) -> None:
    """Until the queues are empty, nothing runs and nothing is counted."""
    client = stack.redis.client

    def busy() -> dict[str, Any]:
        found: dict[str, Any] = {
            "counted": counted(stack),
            "running": running(stack),
            "queued": client.llen(queue(stack.mode, "sync")),
            "workers": {
                key.decode(): int(client.hget(key.decode(), "running") or 0)
                for key in client.scan_iter(keys.worker("*"))
            },
        }
        return (
            found
            if any(found[name] for name in ("counted", "running", "queued")) or any(found["workers"].values())
            else {}
        )

    last: dict[str, Any] = {}

    def quiet() -> bool:
        last.clear()
        last.update(busy())
        return not last

    try:
        wait_until("the stack is quiet", quiet)
    except AssertionError:
        raise AssertionError(f"the stack does not become quiet: {last}") from None


def environment_processes(stack: Stack) -> list[Process]:
    """Processes of the stack's user ids."""
    return [process for process in everything() if process.uid in stack.uids and process.state != "Z"]


def run_directory(pid: int) -> Path:
    """The directory of the environments of a worker, which holds its lock open."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = entry.readlink()
        except FileNotFoundError:
            continue
        if target.name == "lock" and target.parent.name.startswith(PREFIX):
            return target.parent
    raise AssertionError(f"process {pid} has no run directory")


def starts(stack: Stack, name: str) -> int:
    """START lines in the function's stored log."""
    return stack.get(f"/_everwarm/logs/{name}")[1].count(b"START RequestId:")


class Load:
    """Threads that call a function one call after another, until told to stop."""

    def __init__(self, call: Caller, threads: int, **event: Any) -> None:
        self.answers: list[tuple[float, Answer]] = []
        """Monotonic time of the end, and the answer."""
        self._stop = threading.Event()
        self._call: Callable[[], Answer] = lambda: call(**event)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            answer = self._call()
            self.answers.append((time.monotonic(), answer))
            if not answer.good:
                self._stop.wait(0.05)

    def good_since(self, when: float) -> int:
        """Right answers after a monotonic time."""
        return sum(answer.good and at - answer.took_s > when for at, answer in self.answers)

    def stop(self, timeout_s: float = 20.0) -> list[Answer]:
        """End it; fails when a call hangs."""
        self._stop.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.01))
        hanging = sum(thread.is_alive() for thread in self._threads)
        assert not hanging, f"{hanging} calls hang"
        return [answer for _, answer in self.answers]
