"""An S3 for tests: moto's server as a process of its own, spoken to over HTTP."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.services.processes import free_port
from tests.services.waiting import wait_until


class S3Server:
    """A process that speaks S3."""

    def __init__(self) -> None:
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        port = self.endpoint.rsplit(":", 1)[1]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "EVERWARM_"))},
        )
        try:
            wait_until("S3 answers", self._answers, 30)
        except BaseException:
            self.close()
            raise
        # Any: boto3's S3 client has no stubs here.
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(s3={"addressing_style": "path"}),
        )

    def _answers(self) -> bool:
        assert self._process.poll() is None, "moto's server ended; is moto[s3] with flask and flask-cors installed?"
        try:
            urllib.request.urlopen(f"{self.endpoint}/moto-api/").close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 for the session; use buckets of your own."""
    server = S3Server()
    yield server
    server.close()
