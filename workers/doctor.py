"""What a worker finds on this machine: ``python -m workers.doctor`` prints it as one JSON document.

``{"settings": […], "runtimes": [{"runtime", "command", "problem"}], "relay": path or ""}``; `everwarm doctor` shows it.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypedDict

import msgspec

from workers import settings
from workers.contract.messages import FunctionSpec
from workers.contract.settings import SettingError, describe
from workers.relay import binaries
from workers.runtimes.commands import RuntimeUnavailable, runtime_command

#: What mode local can run where an interpreter is found; ``provided.*`` needs none.
RUNTIMES: Final = (
    *(f"python3.{minor}" for minor in range(8, 15)),
    *(f"nodejs{major}.x" for major in (16, 18, 20, 22, 24)),
)


class Found(TypedDict):
    """One runtime: the command that runs it, or what is missing."""

    runtime: str
    command: str
    problem: str


def find_runtime(runtime: str, overrides: Mapping[str, str]) -> Found:
    """The command that runs ``runtime`` in mode local, or why this machine has none."""
    spec = FunctionSpec(
        account="", region="", function="", version="", handler="", code_sha256="", revision="",
        runtime=runtime, timeout_s=3, memory_mb=128, ephemeral_mb=512, environment={},
    )  # fmt: skip
    try:
        found = runtime_command(spec, Path("/"), overrides, other_user=os.geteuid() == 0)
    except RuntimeUnavailable as error:
        return Found(runtime=runtime, command="", problem=str(error))
    return Found(runtime=runtime, command=found.argv[0], problem="")


def main() -> int:
    """Print the document; 2 and a line on standard error when a setting is invalid."""
    try:
        found = settings.read(os.environ)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        relay = str(binaries.host_binary())
    except binaries.RelayMissing:
        relay = ""
    report = {
        "settings": [msgspec.structs.asdict(row) for row in describe(found, os.environ)],
        "runtimes": [find_runtime(runtime, found.local_runtimes) for runtime in RUNTIMES],
        "relay": relay,
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
