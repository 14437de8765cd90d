"""A real Redis for tests, with a password, and the check that no test leaves keys behind for ever."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from dispatcher.cli.redis import EmbeddedRedis
from workers.contract import keys


class RedisServer:
    """A Redis process that tests may kill and start again (then empty, under the same URL)."""

    def __init__(self, directory: Path, program: str | None = None) -> None:
        self._embedded = EmbeddedRedis(directory, program)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = self._embedded.url
        self.client: Redis = Redis.from_url(self.url)

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, "Redis is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = self._embedded.start()

    def kill9(self) -> None:
        """End it as a crash would, everything in it is lost."""
        assert self._process is not None, "Redis is not running"
        self._process.kill()
        self._process.wait()
        self._process = None
        self.client.connection_pool.disconnect()

    def restart(self) -> None:
        """Kill it and start it empty."""
        self.kill9()
        self.start()

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self.kill9()
        self.client.close()

    def leaked_keys(self) -> list[str]:
        """Keys that would stand for ever and are not on the permanent list."""
        names = [name.decode(errors="replace") for name in self.client.scan_iter(count=1000)]
        return sorted(name for name in names if self.client.ttl(name) == -1 and not keys.is_permanent(name))


@pytest.fixture(scope="session")
def _redis_of_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def redis_server(_redis_of_session: RedisServer) -> Iterator[RedisServer]:
    """An empty Redis; fails the test that leaves a key which would stand for ever."""
    server = _redis_of_session
    yield server
    if not server.running:
        server.start()
    leaked = server.leaked_keys()
    server.client.flushall()
    assert not leaked, f"keys without a TTL that are not on the permanent list: {leaked}"
