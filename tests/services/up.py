"""``everwarm up`` as a process that tests can signal."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from mypy_boto3_lambda import LambdaClient

from dispatcher.cli.process import spawn
from tests.services.commands import COMMAND, clean_environ
from tests.services.processes import Process, free_port, tree, wait_until_gone
from tests.services.waiting import wait_until

#: Mode local alone, also where a container engine answers.
_LOCAL = {"LAMBDA_EXECUTOR": "local", "EVERWARM_IMAGE_WORKER": "0"}


class Up:
    """A running ``everwarm up`` with a data directory and a port of its own."""

    def __init__(self, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
        self.data = Path(tempfile.mkdtemp(prefix="everwarm-test-"))
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._log = self.data / "up.log"
        argv = [*COMMAND, "up", "--port", str(self.port), "--data", str(self.data / "data"), *arguments]
        with self._log.open("wb") as output:
            self.process: subprocess.Popen[bytes] = spawn(
                argv, clean_environ({**_LOCAL, "EVERWARM_LOG": "text", **(environ or {})}), output=output
            )
        self._seen: set[Process] = set()

    def wait_until_ready(self) -> "Up":
        """Until it says so."""

        def ready() -> bool:
            assert self.process.poll() is None, f"it ended with status {self.process.returncode}:\n{self.output()}"
            return f"ready at {self.endpoint}" in self.output()

        wait_until("everwarm up is ready", ready, 30)
        return self

    def output(self) -> str:
        """Everything it and its parts have written."""
        return self._log.read_text(errors="replace")

    def tree(self) -> list[Process]:
        """It and all processes below it; remembered, so that :meth:`close` can look whether they are gone."""
        found = tree([self.process.pid]) if self.process.poll() is None else []
        self._seen.update(found)
        return found

    def part(self, word: str) -> Process:
        """The direct child whose command has ``word`` in it."""
        (found,) = [child for child in self.tree() if child.parent == self.process.pid and word in child.command]
        return found

    def client(self, **config: Any) -> LambdaClient:
        """A boto3 client without retries; ``config`` are further options of botocore's Config."""
        return boto3.client(
            "lambda",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="000000000000",
            aws_secret_access_key="test",
            config=Config(**{"retries": {"total_max_attempts": 1}, "read_timeout": 60, **config}),
        )

    def wait_until_nothing_is_left(self, timeout_s: float) -> None:
        """Until every process ever seen in its tree has ended."""
        wait_until_gone(self._seen, timeout_s)

    def close(self) -> None:
        """End it if it still runs; fails when a process is left."""
        self.tree()
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("everwarm up lived on 20 s after SIGTERM") from None
        finally:
            print(self.output())
            shutil.rmtree(self.data, ignore_errors=True)
        self.wait_until_nothing_is_left(5)


@pytest.fixture
def up() -> Iterator[Callable[..., Up]]:
    """Starts ``everwarm up`` with these options."""
    started: list[Up] = []

    def start(*arguments: str, **environ: str) -> Up:
        started.append(Up(*arguments, environ=environ))
        return started[-1]

    yield start
    for one in started:
        one.close()
