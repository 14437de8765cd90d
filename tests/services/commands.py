"""The command ``everwarm`` as people run it: a process with its own environment."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

COMMAND = (sys.executable, "-P", "-m", "dispatcher.cli")


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def clean_environ(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without anybody's settings, and ``extra``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EVERWARM_", "LAMBDA_", "AWS_"))}
    return {**kept, **(extra or {})}


def everwarm(*arguments: str, environ: Mapping[str, str] | None = None, timeout_s: float = 60.0) -> Done:
    """Run a command to its end."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=clean_environ(environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    return Done(done.returncode, done.stdout, done.stderr)
