"""Which mode functions run in by default, and why."""

import http.client
import os
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from workers.contract.messages import Mode
from workers.contract.settings import SettingError, Shared

#: Where a daemon's socket is, by which a process in a container reaches it too.
SOCKET: Final = "/var/run/docker.sock"
_ANSWER_S: Final = 2.0


class Choice(NamedTuple):
    """The default mode and the reason, as one phrase."""

    mode: Mode
    why: str


def choose_mode(settings: Shared, daemon: str | None) -> Choice:
    """The default mode: ``LAMBDA_EXECUTOR``, else docker where a daemon answers, else local; never another than was asked for.

    ``daemon`` is what :func:`find_docker` found. Raises ``SettingError``.
    """
    if settings.executor is not None:
        if settings.executor != "local":
            require_docker("LAMBDA_EXECUTOR", settings.executor, daemon)
        return Choice(settings.executor, f"LAMBDA_EXECUTOR={settings.executor}")
    if daemon:
        return Choice("docker", f"a Docker daemon answers at {daemon}")
    return Choice("local", "no Docker daemon answers")


def require_docker(variable: str, mode: str, daemon: str | None) -> None:
    """Raises ``SettingError`` where a docker mode was asked for and no daemon answers."""
    if daemon is None:
        why = (
            f"no Docker daemon answers; start one or set DOCKER_HOST, and in a container mount {SOCKET} "
            f"(docker run -v {SOCKET}:{SOCKET} …)"
        )
        raise SettingError(variable, mode, why)


def find_docker(environ: Mapping[str, str]) -> str | None:
    """The address at which a Docker daemon (or Podman's compatible socket) answers a ping."""
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    given = environ.get("DOCKER_HOST")
    candidates = (
        [given]
        if given
        else [
            f"unix://{SOCKET}",
            f"unix://{runtime}/docker.sock",
            f"unix://{runtime}/podman/podman.sock",
            "unix:///run/podman/podman.sock",
        ]
    )
    return next((address for address in candidates if _answers_ping(address)), None)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_ANSWER_S)
        self.sock.connect(self._path)


def _answers_ping(address: str) -> bool:
    parts = urlsplit(address)
    if parts.scheme == "unix":
        connection: http.client.HTTPConnection = _UnixConnection(parts.path)
    elif parts.hostname:
        connection = http.client.HTTPConnection(parts.hostname, parts.port or 2375, timeout=_ANSWER_S)
    else:
        return False
    try:
        connection.request("GET", "/_ping")
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return response.status == 200
