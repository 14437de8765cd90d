"""``LAMBDA_DOCKER_FLAGS``: the flags of ``docker run`` that apply to every function's container."""

import argparse
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

_PROTOCOLS: Final = ("tcp", "udp", "sctp")


@dataclass(frozen=True, slots=True)
class Flags:
    """What the flags ask for."""

    environment: dict[str, str] = field(default_factory=dict)
    mounts: tuple[tuple[str, str], ...] = ()
    """Host path (or volume) and path in the container; read-only ones."""
    writable_mounts: tuple[tuple[str, str], ...] = ()
    ports: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """``8080/tcp`` → host address and port, both empty for any."""
    hosts: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    ulimits: tuple[tuple[str, int, int], ...] = ()
    user: str = ""
    platform: str = ""
    privileged: bool = False
    network: str = ""

    @property
    def fixed_port(self) -> bool:
        """Whether a port of the host is named: then only one container can have it."""
        return any(number for bound in self.ports.values() for _, number in bound)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parse_flags(text: str) -> Flags:
    """Raises ``ValueError`` with a phrase that names what can't be used."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("-e", "--env", action="append", default=[])
    parser.add_argument("--env-file", action="append", default=[])
    parser.add_argument("-v", "--volume", action="append", default=[])
    parser.add_argument("-p", "--publish", action="append", default=[])
    parser.add_argument("--add-host", action="append", default=[])
    parser.add_argument("--label", "-l", action="append", default=[])
    parser.add_argument("--ulimit", action="append", default=[])
    parser.add_argument("--user", "-u", default="")
    parser.add_argument("--platform", default="")
    parser.add_argument("--network", "--net", default="")
    parser.add_argument("--privileged", action="store_true")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"is not a line of flags: {error}") from None
    try:
        found, rest = parser.parse_known_args(words)
    except ValueError as error:
        raise ValueError(f"is not a line of `docker run` flags: {error}") from None
    if rest:
        raise ValueError(
            f"has {rest[0]!r}, which is not supported; valid are -e -v -p --add-host --env-file --label --ulimit "
            "--user --platform --privileged --network"
        )
    mounts = [_mount(value) for value in found.volume]
    return Flags(
        environment={
            **{key: value for file in found.env_file for key, value in _read_file(file).items()},
            **dict(_pair(value, "-e") for value in found.env),
        },
        mounts=tuple((source, target) for source, target, writable in mounts if not writable),
        writable_mounts=tuple((source, target) for source, target, writable in mounts if writable),
        ports=_ports(found.publish),
        hosts=tuple(_host(value) for value in found.add_host),
        labels=dict(value.partition("=")[::2] for value in found.label),
        ulimits=tuple(_ulimit(value) for value in found.ulimit),
        user=found.user,
        platform=found.platform,
        privileged=found.privileged,
        network=found.network,
    )


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise ValueError(f"has {flag} {text}: must be NAME=value")
    return name, value


def _read_file(path: str) -> dict[str, str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"has --env-file {path}, which can't be read: {error}") from None
    return dict(_pair(line.strip(), "--env-file") for line in lines if line.strip() and not line.startswith("#"))


def _mount(text: str) -> tuple[str, str, bool]:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts) or not parts[1].startswith("/"):
        raise ValueError(f"has -v {text}: must be HOST-PATH:/container/path[:ro]")
    options = parts[2].split(",") if len(parts) == 3 else []
    return parts[0], parts[1], "ro" not in options


def _ports(values: list[str]) -> dict[str, tuple[tuple[str, str], ...]]:
    ports: dict[str, tuple[tuple[str, str], ...]] = {}
    for text in values:
        body, _, protocol = text.partition("/")
        *address, inner = body.split(":")
        outer = address.pop() if address else ""
        if (protocol or "tcp") not in _PROTOCOLS or not inner.isdecimal() or not (outer or "0").isdecimal():
            raise ValueError(f"has -p {text}: must be [[ADDRESS:]HOST-PORT:]PORT[/tcp|udp]")
        key = f"{inner}/{protocol or 'tcp'}"
        # Off this machine only when asked for.
        ports[key] = (*ports.get(key, ()), (":".join(address).strip("[]") or "127.0.0.1", outer))
    return ports


def _host(text: str) -> str:
    name, found, address = text.partition(":")
    if not found or not name or not address:
        raise ValueError(f"has --add-host {text}: must be NAME:ADDRESS")
    return text


def _ulimit(text: str) -> tuple[str, int, int]:
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        return name, int(soft), int(hard or soft)
    except ValueError:
        raise ValueError(f"has --ulimit {text}: must be NAME=SOFT[:HARD]") from None
