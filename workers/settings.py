"""The worker's settings. ``python -m workers.settings`` checks them and prints them as JSON, without secrets."""

import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from workers.contract import settings as shared
from workers.contract.messages import MODES, Mode
from workers.contract.settings import Environ, Setting, Shared, boolean, integer, names, number, one_of, text, url
from workers.docker_flags import Flags, parse_flags
from workers.images.names import AWS_REGISTRY, read_mapping


def docker_url(value: str) -> str:
    """An engine's address."""
    if urlsplit(value).scheme not in {"unix", "tcp", "http", "https", "ssh"}:
        raise ValueError("must be unix:///path or tcp://host:port")
    return value


class WorkerSettings(Shared, frozen=True, kw_only=True):
    """Everything a worker of one mode can be told."""

    mode: Annotated[Mode, Setting("EVERWARM_MODE", one_of(*MODES), "the mode whose queues this worker consumes")] = (
        "local"
    )
    concurrency: Annotated[
        int,
        Setting(
            "EVERWARM_CONCURRENCY", integer(1, 1024), "invocations that run at a time; default 4 per core, at least 16"
        ),
    ] = 0
    name: Annotated[
        str,
        Setting(
            "EVERWARM_WORKER_NAME",
            text,
            "what the worker's name begins with; default: host and process id; what makes it unique is added",
        ),
    ] = ""
    endpoint: Annotated[
        str,
        Setting(
            "EVERWARM_ENDPOINT",
            url("http", "https"),
            "the dispatcher, for the calls that functions make through their relay",
        ),
    ] = "http://127.0.0.1:4566"
    keepalive_ms: Annotated[
        int,
        Setting(
            "LAMBDA_KEEPALIVE_MS",
            integer(0, 86_400_000),
            "an environment idle this long is destroyed; 0: at once",
            "ms",
        ),
    ] = 600_000
    init_timeout_s: Annotated[
        float,
        Setting(
            "LAMBDA_RUNTIME_ENVIRONMENT_TIMEOUT",
            number(0.1, 900),
            "how long an environment may take to ask for its first event",
            "s",
        ),
    ] = 20.0
    local_runtimes: Annotated[
        Mapping[str, str],
        Setting("EVERWARM_LOCAL_RUNTIMES", shared.commands, "mode local: runtime → command line, as a JSON object"),
    ] = msgspec.field(default_factory=dict)
    stay_open: Annotated[
        bool,
        Setting(
            "LAMBDA_STAY_OPEN_MODE",
            boolean,
            "mode docker-reuse: 1: the function's process stays open; 0: docker exec starts one for every invocation",
        ),
    ] = True
    remote_docker: Annotated[
        bool | None,
        Setting(
            "LAMBDA_REMOTE_DOCKER",
            boolean,
            "1: code becomes image layers; 0: it is bind-mounted; unset: decided by looking whether the engine sees it",
        ),
    ] = None
    docker_host: Annotated[
        str,
        Setting("DOCKER_HOST", docker_url, "the container engine: unix:///path or tcp://host:port; unset: looked for"),
    ] = ""
    docker_networks: Annotated[
        tuple[str, ...],
        Setting("LAMBDA_DOCKER_NETWORK", names, "networks of the containers, separated by commas; unset: an own one"),
    ] = ()
    docker_dns: Annotated[
        tuple[str, ...], Setting("LAMBDA_DOCKER_DNS", names, "DNS servers of the containers, separated by commas")
    ] = ()
    docker_flags: Annotated[
        Flags,
        Setting(
            "LAMBDA_DOCKER_FLAGS",
            parse_flags,
            "further flags of `docker run` for the functions' containers",
            secret=True,
        ),
    ] = Flags()
    container_registry: Annotated[str, Setting("LAMBDA_CONTAINER_REGISTRY", text, "registry of the runtime images")] = (
        AWS_REGISTRY
    )
    runtime_image_mapping: Annotated[
        str | Mapping[str, str] | None,
        Setting(
            "LAMBDA_RUNTIME_IMAGE_MAPPING",
            read_mapping,
            "JSON object runtime → image, or a pattern with <runtime>",
        ),
    ] = None
    remove_containers: Annotated[
        bool, Setting("LAMBDA_REMOVE_CONTAINERS", boolean, "0: stopped containers are kept for debugging")
    ] = True
    ignore_architecture: Annotated[
        bool,
        Setting(
            "LAMBDA_IGNORE_ARCHITECTURE", boolean, "1: containers run on the host's architecture whatever is asked for"
        ),
    ] = False
    cpu_quota: Annotated[
        bool,
        Setting("EVERWARM_CPU_QUOTA", boolean, "1: CPU is limited by the function's memory, not only weighed by it"),
    ] = False
    memory_budget_mb: Annotated[
        int,
        Setting(
            "EVERWARM_MEMORY_BUDGET_MB",
            integer(128, 1 << 24),
            "memory limits of all environments together; default: this machine's memory",
            "MB",
        ),
    ] = 0
    max_starts: Annotated[
        int,
        Setting("EVERWARM_MAX_STARTS", integer(1, 1024), "environments started at a time; default 2 per core"),
    ] = 0
    max_environments: Annotated[
        int, Setting("EVERWARM_MAX_ENVIRONMENTS", integer(1, 100_000), "warm environments at most; default 4 per slot")
    ] = 0
    truncate_stdout: Annotated[
        int,
        Setting(
            "LAMBDA_TRUNCATE_STDOUT",
            integer(0, 1 << 20),
            "characters of an invocation's last 4 KB of output that debug logging shows in the worker's own log",
        ),
    ] = 2000
    hostname: Annotated[
        str,
        Setting("HOSTNAME_FROM_LAMBDA", text, "functions see it as LOCALSTACK_HOSTNAME and EVERWARM_HOSTNAME"),
    ] = ""
    disable_endpoint_url: Annotated[
        bool,
        Setting("LAMBDA_DISABLE_AWS_ENDPOINT_URL", boolean, "1: functions get no AWS_ENDPOINT_URL_LAMBDA"),
    ] = False

    @property
    def channel(self) -> str:
        """How mode docker-reuse reaches the runtime; empty in the other modes."""
        return ("stay-open" if self.stay_open else "docker-exec") if self.mode == "docker-reuse" else ""


def read(environ: Environ) -> WorkerSettings:
    """The settings with the defaults that depend on this machine filled in; raises ``SettingError``."""
    found = shared.read(WorkerSettings, environ)
    concurrency = found.concurrency or max(16, 4 * (os.cpu_count() or 1))
    return msgspec.structs.replace(
        found,
        concurrency=concurrency,
        # Never the name of one that died: its heartbeat would seem to go on.
        name=f"{found.name or f'{socket.gethostname()}-{os.getpid()}'}-{secrets.token_hex(3)}",
        max_environments=found.max_environments or 4 * concurrency,
        max_starts=found.max_starts or 2 * (os.cpu_count() or 1),
        memory_budget_mb=found.memory_budget_mb or _memory_mb(),
    )


def _memory_mb() -> int:
    """What this process may use: the machine's memory, or its control group's where that is less."""
    least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            least = min(least, int(Path(file).read_text()))
    return max(least >> 20, 128)


def main() -> int:
    """Print the settings as one JSON document; 2 and a line on standard error when one is invalid."""
    try:
        rows = shared.describe(read(os.environ), os.environ)
    except shared.SettingError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps([msgspec.structs.asdict(row) for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
