"""Sample functions on a running stack: made from tests/functions or from source in the test, invoked, and read."""

import base64
import functools
import itertools
import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import pytest
from botocore.exceptions import ClientError
from mypy_boto3_lambda import LambdaClient

from tests.services import docker
from tests.services.code import zip_of
from tests.services.local import python_runtime
from tests.services.processes import everything
from tests.services.stack import ACCOUNT, Stack
from tests.services.waiting import wait_until
from workers.doctor import RUNTIMES, find_runtime
from workers.engine import LABEL_ENVIRONMENT, LABEL_FUNCTION, Container

Family = Literal["python", "node", "provided"]
SAMPLES: Final = Path(__file__).resolve().parent.parent / "functions"
ROLE: Final = "arn:aws:iam::000000000000:role/lambda"
REGION: Final = "us-east-1"
_numbers = itertools.count(1)
#: Of these the tests' engine has images.
_IMAGES: Final[dict[Family, str]] = {"python": "python3.13", "node": "nodejs20.x", "provided": "provided.al2023"}

_clients: dict[str, LambdaClient] = {}


def _client(endpoint: str, stack: Stack) -> LambdaClient:
    """One for each stack: making one takes boto3 a tenth of a second."""
    if endpoint not in _clients:
        _clients[endpoint] = stack.client(max_pool_connections=32)
    return _clients[endpoint]


@functools.cache
def node_runtime() -> str:
    """The newest Node.js that functions can use here; without one the test is skipped, in CI it fails."""
    found = [runtime for runtime in RUNTIMES if runtime.startswith("nodejs") and find_runtime(runtime, {})["command"]]
    if not found and os.environ.get("CI") == "true":
        pytest.fail("Node.js is missing: apt-get install nodejs")
    if not found:
        pytest.skip("needs Node.js: apt-get install nodejs")
    return found[-1]


def runtime_of(family: Family) -> str:
    """A runtime of that family which this machine has."""
    if family == "python":
        return python_runtime()
    return node_runtime() if family == "node" else "provided.al2023"


@dataclass(frozen=True)
class Answer:
    """Everything of an answer to Invoke that a caller sees."""

    status: int
    body: bytes
    error: str | None
    version: str | None
    log: str
    """The tail, decoded; empty without ``LogType`` Tail."""
    request_id: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Functions:
    """A client with short ways to make and call functions of one stack and mode. Names are never used twice."""

    def __init__(self, stack: Stack, kind: str = "local", client: LambdaClient | None = None) -> None:
        """``kind``: ``local``, ``docker``, or one of docker-reuse's channels."""
        self.stack = stack
        self.kind = kind
        self.mode = stack.mode
        self.client = client or _client(stack.endpoint, stack)
        self._made: list[str] = []

    @property
    def separated(self) -> bool:
        """Whether functions are kept apart from each other and from the host; mode local can do so as root only."""
        return self.mode != "local" or os.geteuid() == 0

    @property
    def keeps_process(self) -> bool:
        """Whether one process takes several invocations."""
        return self.kind in {"local", "stay-open"}

    @property
    def keeps_environment(self) -> bool:
        """Whether what an invocation leaves in /tmp is there for the next."""
        return self.kind != "docker"

    @property
    def in_containers(self) -> bool:
        """Whether functions run on a container engine."""
        return self.mode != "local"

    def times(self, calls: int) -> int:
        """Fewer calls where each is a cold start."""
        return calls if self.keeps_process else min(calls, 3)

    def runtime(self, family: Family) -> str:
        """A runtime of that family which the mode can run."""
        return _IMAGES[family] if self.in_containers else runtime_of(family)

    def arn(self, name: str, qualifier: str = "") -> str:
        """The ARN of a function in the default account."""
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}" + (f":{qualifier}" if qualifier else "")

    def sample(self, name: str, family: Family = "python", entry: str = "handler", **members: Any) -> str:
        """Create the sample ``name`` of tests/functions; answers the function's name."""
        (path,) = (SAMPLES / family).glob(f"{name}.*") if family != "provided" else [SAMPLES / "provided" / "bootstrap"]
        handler = f"{name}.{entry}" if family != "provided" else name
        return self.create({path.name: path.read_bytes()}, handler, self.runtime(family), **members)

    def python(self, source: str, **members: Any) -> str:
        """Create a Python function from source with a ``handler``; answers its name."""
        return self.create({"index.py": source}, "index.handler", **members)

    def create(self, files: Mapping[str, str | bytes], handler: str, runtime: str | None = None, **members: Any) -> str:
        """Create a function and wait until it is Active, unless told not to (``wait=False``); answers its name."""
        wait = members.pop("wait", True)
        name = members.pop("FunctionName", None) or f"fn-{os.getpid()}-{next(_numbers)}"
        request: dict[str, Any] = {
            "FunctionName": name, "Runtime": runtime or self.runtime("python"), "Handler": handler, "Role": ROLE,
            "Code": {"ZipFile": zip_of(**files)}, "Timeout": 20, **members,
            "Tags": {"everwarm:mode": self.mode, **members.get("Tags", {})},
        }  # fmt: skip
        self.client.create_function(**request)
        self._made.append(name)
        if wait:
            self.settle(name)
        return name

    def end_of_pending(self, name: str) -> dict[str, Any]:
        """Its configuration, once it is Active or Failed."""

        def settled() -> Any:
            found = self.client.get_function_configuration(FunctionName=name)
            return found if found["State"] != "Pending" else None

        return cast("dict[str, Any]", wait_until(f"{name} is not Pending any more", settled, 30))

    def settle(self, name: str) -> None:
        """Wait until the function is Active and its last update is through."""

        def settled() -> bool:
            found = self.client.get_function_configuration(FunctionName=name)
            return found["State"] == "Active" and found["LastUpdateStatus"] == "Successful"

        wait_until(f"{name} is ready", settled)

    def configure(self, name: str, **members: Any) -> None:
        """UpdateFunctionConfiguration, and wait for it."""
        self.client.update_function_configuration(FunctionName=name, **members)
        self.settle(name)

    def update(self, name: str, source: str) -> None:
        """UpdateFunctionCode with Python source, and wait for it."""
        self.client.update_function_code(FunctionName=name, ZipFile=zip_of(index__py=source))
        self.settle(name)

    def invoke(self, name: str, event: Any = None, **members: Any) -> Answer:
        """Invoke with the event as JSON (``None``: no payload), or with ``Payload`` as it is; the tail is asked for."""
        request: dict[str, Any] = {"FunctionName": name, "LogType": "Tail", **members}
        if event is not None:
            request["Payload"] = json.dumps(event).encode()
        found = self.client.invoke(**{key: value for key, value in request.items() if value is not None})
        meta = found["ResponseMetadata"]
        return Answer(
            status=found["StatusCode"],
            body=found["Payload"].read(),
            error=found.get("FunctionError"),
            version=found.get("ExecutedVersion"),
            log=base64.b64decode(found.get("LogResult", "")).decode(errors="replace"),
            request_id=meta["HTTPHeaders"]["x-amzn-requestid"],
            headers=cast("Mapping[str, str]", meta["HTTPHeaders"]),
        )

    def refused(self, name: str, event: Any = None, **members: Any) -> tuple[str, int, dict[str, Any]]:
        """Error code, status, and the whole parsed answer of a call of Invoke that is refused."""
        with pytest.raises(ClientError) as caught:
            self.invoke(name, event, **members)
        answer = cast("dict[str, Any]", caught.value.response)
        return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer

    def environments(self, name: str) -> list[dict[str, Any]]:
        """The function's environments, as the server's page shows them."""

        def page() -> tuple[int, bytes] | None:
            found = self.stack.get("/_everwarm/environments")
            return found if found[0] != 503 else None

        # 503: Redis did not answer in time, as happens for a moment on a machine that stalls.
        found = wait_until("the page of the environments is there", page, every_s=0.1)
        assert found is not None
        status, body = found
        assert status == 200, body
        return [found for found in json.loads(body)["environments"] if found["function"] == name]

    # What runs

    def containers(self, name: str) -> list[Container]:
        """The function's containers; none in mode local."""
        return [one for one in self.stack.containers() if _function_of(one) == name]

    def processes(self, environment: str) -> list[docker.Running]:
        """What of the function runs in an environment; none when it is gone."""
        if self.in_containers:
            label = f"{LABEL_ENVIRONMENT}={environment}"
            return [one for found in docker.connection().containers(label) for one in docker.processes_in(found.id)]
        mark = environment.encode()
        return [
            docker.Running(process.state, process.command)
            for process in everything()
            if process.state != "Z" and mark in _environ(process.pid)
        ]

    def kill(self, environment: str) -> None:
        """End what runs in it as a crash would; its container as a whole."""
        if self.in_containers:
            (container,) = docker.connection().containers(f"{LABEL_ENVIRONMENT}={environment}")
            docker.client().kill(container.id)
            return
        for process in everything():
            if environment.encode() in _environ(process.pid):
                os.kill(process.pid, signal.SIGKILL)

    def wait_until_ended(self, environment: str) -> None:
        """Until nothing of the environment runs, and its container is gone."""
        wait_until(f"no process of {environment} is left", lambda: not self.processes(environment))
        if self.in_containers:
            label = f"{LABEL_ENVIRONMENT}={environment}"
            wait_until("its container is gone", lambda: not docker.connection().containers(label), every_s=0.1)

    def wait_until_only_warm_ones_are_left(self) -> None:
        """Until every container of the functions made here is one of an idle environment."""
        if not self.in_containers or not self._made:
            return

        def warm() -> set[str]:
            records = [record for name in self._made for record in self.environments(name)]
            return {record["id"] for record in records if record["state"] == "idle"}

        def there() -> list[Container]:
            return [one for one in self.stack.containers() if _function_of(one) in self._made]

        try:
            wait_until(
                "only warm containers are left",
                lambda: {one.labels[LABEL_ENVIRONMENT] for one in there()} == warm(),
                15,
                every_s=0.1,
            )
        except AssertionError as error:
            states = [(one.labels[LABEL_ENVIRONMENT], one.name, one.state) for one in there()]
            raise AssertionError(f"{error}; warm: {warm()}, on the engine: {states}") from None

    def delete_all(self) -> None:
        """Delete the functions made here, so that their environments end."""
        for name in self._made:
            with suppress(ClientError):
                self.client.delete_function(FunctionName=name)
        self._made.clear()


def _function_of(container: Container) -> str:
    return ":".join(container.labels.get(LABEL_FUNCTION, "").split(":")[2:3])


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
