"""Everwarm by `compose/compose.yaml`: images for it from Debian packages, and a project of its own that a test brings up."""

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from mypy_boto3_lambda import LambdaClient

from tests.services.commands import clean_environ
from tests.services.docker import REGISTRY, require_engine
from tests.services.processes import free_port
from tests.services.programs import require
from tests.services.waiting import wait_until
from workers.contract import keys
from workers.engine import LABEL_INSTALLATION, Engine
from workers.images import recipes
from workers.images.rootfs import archive, cache_directory
from workers.images.state import state

_ROOT: Final = Path(__file__).resolve().parents[2]
_FILE: Final = _ROOT / "compose" / "compose.yaml"
_EXAMPLE: Final = _FILE.with_name(".env.example")
_RECIPES: Final = _ROOT / "tests" / "compose" / "images"
#: The tests' engine keeps what has this host in its name.
_IMAGES: Final = f"{REGISTRY.split('/', 1)[0]}/compose"
_UP_S: Final = 180.0
_BUILD_S: Final = 600.0
#: What pip was told about how it reaches its index, as far as it holds in another root file system.
_PIP: Final = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")

ACCOUNT: Final = "123456789012"


def base_image(engine: Engine, name: str) -> str:
    """The image of a recipe in tests/compose/images; built when the engine has none as the recipe is now."""
    recipe = recipes.read(name, _RECIPES)
    image = f"{_IMAGES}/{name}:test"
    if state(engine, image, recipe.digest) != "current":
        engine.import_image(archive(recipe, cache_directory(os.environ)), image, recipe.changes)
    return image


class Images:
    """All that a project is started from, in an engine."""

    def __init__(self, engine: Engine) -> None:
        self.base = base_image(engine, "base")
        self.redis = base_image(engine, "redis")
        self.postgres = base_image(engine, "postgres")
        self.builder = f"{_IMAGES}/builder:test"
        self.everwarm = f"{_IMAGES}/everwarm:test"
        self._build_builder()
        # A name for the first stage too: what has none is no cache on the tests' engine.
        arguments = ("--target", "build", "--tag", f"{_IMAGES}/stage:test", *self._arguments())
        self._docker_build(*arguments, str(_ROOT))

    def settings(self) -> dict[str, str]:
        """Variables of compose.yaml, and those of the commands."""
        return {
            "EVERWARM_IMAGE": self.everwarm,
            "EVERWARM_BASE_IMAGE": self.base,
            "EVERWARM_BUILD_BASE_IMAGE": self.builder,
            "EVERWARM_BUILD_NETWORK": "host",
            "EVERWARM_REDIS_IMAGE": self.redis,
            "EVERWARM_POSTGRES_IMAGE": self.postgres,
            **_CLASSIC,
        }

    def _arguments(self) -> list[str]:
        given = {"BASE": self.base, "BUILD_BASE": self.builder, "PIP_INDEX_URL": "", "PIP_EXTRA_INDEX_URL": ""}
        arguments = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
        return ["--file", str(_ROOT / "compose" / "Dockerfile"), *arguments]

    def _build_builder(self) -> None:
        """The base, with this machine's certificates and pip's index: that is how the machine reaches packages."""
        with tempfile.TemporaryDirectory() as folder:
            certificates = Path("/etc/ssl/certs/ca-certificates.crt")
            if certificates.is_file():
                shutil.copyfile(certificates, Path(folder, "certificates.crt"))
            Path(folder, "pip.conf").write_text(_pip_configuration())
            Path(folder, "Dockerfile").write_text(
                f"FROM {self.base}\nCOPY pip.conf /etc/pip.conf\nCOPY *.crt /etc/ssl/certs/ca-certificates.crt\n"
            )
            self._docker_build("--tag", self.builder, folder)

    @staticmethod
    def _docker_build(*arguments: str) -> None:
        environ = {**os.environ, **_CLASSIC}
        _run(["docker", "build", "--quiet", "--network", "host", *arguments], environ, _BUILD_S)


#: Engines of Debian have no BuildKit that reaches the network.
_CLASSIC: Final = {"DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "1"}


def _pip_configuration() -> str:
    done = _run([sys.executable, "-m", "pip", "config", "list"], os.environ, 60)
    lines = ["[global]", "cert = /etc/ssl/certs/ca-certificates.crt"]
    for line in done.splitlines():
        name, _, value = line.partition("=")
        option, words = name.rpartition(".")[2], value.strip("'\"").replace("\\n", " ").split()
        kept = [word for word in words if not word.startswith(("file:", "/"))]
        if option in _PIP and kept:
            lines.append(f"{option} = {' '.join(kept)}")
    return "\n".join(lines) + "\n"


def _run(command: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> str:
    done = subprocess.run(
        command, env=dict(environ), capture_output=True, text=True, check=False, timeout=timeout_s, cwd=_ROOT
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Compose:
    """A project with a name, a port and passwords of its own."""

    def __init__(self, **settings: str) -> None:
        """``settings``: variables of compose.yaml beyond those that the tests' engine asks for."""
        self.engine = require_engine()
        require("docker", "docker.io")
        self._command = (
            require("docker-compose", "docker-compose"),
            "--file",
            str(_FILE),
            "--ansi",
            "never",
            "--env-file",
            str(_EXAMPLE),
        )
        self.name = f"everwarm-test-{secrets.token_hex(4)}"
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        self.key, self.secret = "AKIDCOMPOSE", secrets.token_hex(16)
        self.installation = ""
        self._environ = {
            **clean_environ(),
            **Images(self.engine).settings(),
            "COMPOSE_PROJECT_NAME": self.name,
            "EVERWARM_PUBLISH": urlsplit(self.endpoint).netloc,
            "EVERWARM_CREDENTIALS": f"{self.key}:{self.secret}:{ACCOUNT}",
            "EVERWARM_REDIS_PASSWORD": secrets.token_hex(16),
            "EVERWARM_POSTGRES_PASSWORD": secrets.token_hex(16),
            "EVERWARM_DOCKER_SOCKET": _socket(),
            "EVERWARM_DRAIN_S": "20",
            "LAMBDA_CONTAINER_REGISTRY": REGISTRY,
            **settings,
        }

    def run(self, *arguments: str, timeout_s: float = _UP_S) -> str:
        """A docker-compose command; fails when it fails."""
        return _run([*self._command, *arguments], self._environ, timeout_s)

    def up(self) -> "Compose":
        """Build the image, start everything, and wait until every part is healthy."""
        self.run("build", timeout_s=_BUILD_S)
        self.run("up", "--detach", "--no-build")
        self.wait_until_healthy()
        secret = self.run("exec", "-T", "redis", "redis-cli", "--raw", "get", keys.SECRET).strip().encode()
        self.installation = hashlib.sha256(b"everwarm installation\n" + secret).hexdigest()[:12]
        return self

    def scale(self, service: str, number: int) -> None:
        """As a person does; returns when those too many have stopped, and the new ones are healthy."""
        self.run("up", "--detach", "--no-build", "--no-recreate", "--scale", f"{service}={number}", service)
        self.wait_until_healthy()
        assert len(self.containers(service)) == number

    def down(self) -> None:
        """Stop and remove everything, volumes too."""
        self.run("down", "--volumes", "--remove-orphans")

    def close(self) -> None:
        """Bring it down; fails when a container, network or volume of the project or of its functions is left."""
        print(self._logs())
        try:
            self.down()
            wait_until("the project's containers are gone", lambda: not self.left(), 10)
        finally:
            self._remove_by_force()
            self.engine.close()

    def wait_until_healthy(self, timeout_s: float = 60.0) -> None:
        """Until every container's health check has passed; fails at once when one has ended."""

        def healthy() -> bool:
            found = [self.inspect(container)["State"] for container in self.containers()]
            assert all(one["Status"] in {"running", "created"} for one in found), self._logs()
            return all(one.get("Health", {}).get("Status") == "healthy" for one in found)

        wait_until("every part is healthy", healthy, timeout_s, every_s=0.3)

    # --- looking ---

    @property
    def port(self) -> int:
        """Where the API is published."""
        return urlsplit(self.endpoint).port or 0

    @property
    def label(self) -> str:
        """Of the functions' containers."""
        return f"{LABEL_INSTALLATION}={self.installation}"

    def secrets(self) -> list[str]:
        """What no list of processes may show."""
        return [self.secret, *(value for name, value in self._environ.items() if name.endswith("_PASSWORD"))]

    def processes(self, container: str) -> str:
        """A container's processes with their arguments."""
        return _docker("top", container, "-eo", "pid,args")

    def containers(self, service: str = "") -> list[str]:
        """Ids of a service's containers, or of all services'."""
        labels = [f"com.docker.compose.project={self.name}"]
        labels += [f"com.docker.compose.service={service}"] if service else []
        return [container.id for container in self.engine.containers(*labels)]

    def inspect(self, container: str) -> dict[str, Any]:
        """The engine's document of a container."""
        (found,) = json.loads(_docker("inspect", container))
        assert isinstance(found, dict)
        return found

    def places(self, service: str) -> list[str]:
        """Every name and address of a service of one container."""
        (container,) = self.containers(service)
        found = self.inspect(container)
        networks = found["NetworkSettings"]["Networks"].values()
        return [service, found["Name"].lstrip("/"), container[:12], *(one["IPAddress"] for one in networks)]

    def gateways(self, service: str) -> list[str]:
        """The host's addresses in its networks."""
        (container,) = self.containers(service)
        networks = self.inspect(container)["NetworkSettings"]["Networks"].values()
        return [one["Gateway"] for one in networks if one["Gateway"]]

    def function_containers(self) -> list[str]:
        """Ids of the containers that this project's workers have made."""
        return [one.id for one in self.engine.containers(self.label)]

    def left(self) -> list[str]:
        """What of the project is on the engine."""
        project = f"label=com.docker.compose.project={self.name}"
        volumes = _docker("volume", "ls", "--quiet", "--filter", project).split()
        networks = _docker("network", "ls", "--format", "{{.Name}}").split()
        own = [name for name in networks if name.startswith(self.name) or name == self.network]
        return [*self.containers(), *self.function_containers(), *volumes, *own]

    @property
    def network(self) -> str:
        """That of the functions."""
        return f"everwarm-{self.installation}"

    def _logs(self) -> str:
        with suppress(AssertionError, subprocess.TimeoutExpired):
            return self.run("logs", "--no-color", "--tail", "60")
        return ""

    def _remove_by_force(self) -> None:
        for container in [*self.containers(), *self.function_containers()]:
            self.engine.remove(container)

    # --- talking to it ---

    def client(self, **config: Any) -> LambdaClient:
        """A boto3 client with the project's credentials and without retries."""
        return self.client_of(self.key, self.secret, **config)

    def client_of(self, key: str, secret: str, **config: Any) -> LambdaClient:
        """One with other credentials."""
        options: dict[str, Any] = {"retries": {"total_max_attempts": 1}, "read_timeout": 60, **config}
        return boto3.client(
            "lambda",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Config(**options),
        )


def _docker(*arguments: str) -> str:
    return _run(["docker", *arguments], os.environ, 60)


def _socket() -> str:
    """The path of the engine's socket, which the workers get."""
    host = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    if host.scheme != "unix":
        pytest.skip("the engine has no socket on this machine")
    return host.path
