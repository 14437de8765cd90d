"""The worker's settings. ``python -m workers.settings`` checks them and prints them as JSON, without secrets."""

import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from typing import Annotated

import msgspec

from workers.contract import settings as shared
from workers.contract.messages import MODES, Mode
from workers.contract.settings import Environ, Setting, Shared, boolean, integer, number, one_of, text, url


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
    name: Annotated[str, Setting("EVERWARM_WORKER_NAME", text, "the worker's name, unique among living ones")] = ""
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
    )


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
