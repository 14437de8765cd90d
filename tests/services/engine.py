"""A container engine for a test run: ``python -m tests.services.engine -- COMMAND...``.

With ``CI=true`` or ``EVERWARM_TEST_INSTALL=1`` an engine of the tests' own is started, with the runtime images in it, and
everything of it ends with the command; its images stay on the machine for the next run. Otherwise the engine that
answers is used, and where none does the tests that need one are skipped. The command finds the engine by ``DOCKER_HOST``;
``EVERWARM_TEST_ENGINE=1`` says that there is one and that it has the images, ``EVERWARM_TEST_REGISTRY`` what their names
begin with. The status is the command's, or 1 when something of it was left on the engine.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from tests.services.dockerd import REGISTRY, Dockerd, EngineFailed
from tests.services.signals import handling, run_command
from workers.engine import Engine, EngineError

_CACHE: Final = Path("/var/cache/everwarm-tests")
_NEEDED: Final = "apt-get install --no-install-recommends docker.io mmdebstrap"


def _say(words: str) -> None:
    print(f"tests: {words}", file=sys.stderr, flush=True)


def _own_is_wanted(environ: Mapping[str, str]) -> bool:
    # Only root can start one; CI that is not root has to be told so.
    return environ.get("CI") == "true" or (environ.get("EVERWARM_TEST_INSTALL") == "1" and os.geteuid() == 0)


def _build_images(environ: Mapping[str, str]) -> bool:
    """Whether all are there."""
    command = [sys.executable, "-P", "-m", "workers.images.build", "--registry", REGISTRY]
    return subprocess.run(command, env=dict(environ), stdout=sys.stderr, check=False).returncode == 0


def _with_engine(environ: Mapping[str, str]) -> dict[str, str]:
    return {**environ, "EVERWARM_TEST_ENGINE": "1", "EVERWARM_TEST_REGISTRY": REGISTRY}


def _run_on_own(command: Sequence[str], environ: Mapping[str, str]) -> int:
    with Dockerd.running(_CACHE) as engine:
        with_host = {**environ, "DOCKER_HOST": engine.url}
        for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT"):
            with_host.pop(name, None)
        if not _build_images(with_host):
            raise EngineFailed("the runtime images could not be built")
        status = run_command(command, _with_engine(with_host))
        left = engine.remove_leftovers()
        for line in left:
            _say(f"left on the engine after the tests: {line}")
        return status or (1 if left else 0)


def _run_on_found(command: Sequence[str], environ: Mapping[str, str]) -> int:
    try:
        Engine.connect().close()
    except EngineError as error:
        _say(f"no container engine, tests that need one are skipped ({error}); to run them type: {_NEEDED}")
        return run_command(command, environ)
    if not _build_images(environ):
        _say("tests that need runtime images are skipped")
        return run_command(command, environ)
    return run_command(command, _with_engine(environ))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    """Run the command with an engine; its status."""
    command = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if not command:
        _say("type: python -m tests.services.engine -- COMMAND...")
        return 2
    with handling(_interrupt, signal.SIGTERM, signal.SIGHUP):
        try:
            if _own_is_wanted(os.environ):
                return _run_on_own(command, os.environ)
            return _run_on_found(command, os.environ)
        except EngineFailed as error:
            _say(f"no container engine for the tests: {error}")
            return 1
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
