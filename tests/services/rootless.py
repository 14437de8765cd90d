"""A rootless Docker engine: dockerd of a user of its own, in a user namespace (Debian's rootlesskit and slirp4netns)."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dispatcher.cli.process import spawn
from tests.services.docker import REGISTRY
from tests.services.processes import tree, wait_until_gone
from tests.services.waiting import wait_until
from workers.engine import Engine, EngineError

_SCRIPT = Path("/usr/share/docker.io/contrib/dockerd-rootless.sh")
_USER = f"everwarm-test-{os.getpid()}"
_DEVICES = (Path("/dev/net/tun"), Path("/dev/fuse"))
_NEEDED = ("rootlesskit", "slirp4netns", "newuidmap")


def require_rootless() -> None:
    """Skips where it can't be started; fails in CI."""
    if not all(device.exists() for device in _DEVICES):
        pytest.skip(f"this machine has not all of {', '.join(map(str, _DEVICES))}")
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if os.geteuid() == 0 and not missing and _SCRIPT.exists() and _may_install():
        return
    words = (
        "needs root, CI=true or EVERWARM_TEST_INSTALL=1, and: apt-get install docker.io rootlesskit slirp4netns uidmap"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(words)
    pytest.skip(words)


def _may_install() -> bool:
    """It makes a user of the machine for a while, which a person must have asked for."""
    return os.environ.get("CI") == "true" or os.environ.get("EVERWARM_TEST_INSTALL") == "1"


@contextmanager
def rootless_engine() -> Iterator[str]:
    """Its URL; it has the image of python3.11. Nothing of it stays, the user neither."""
    run = Path(f"/run/{_USER}")
    modes = {device: device.stat().st_mode for device in _DEVICES if device.exists()}
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", _USER], check=True)
    daemon = None
    try:
        for device in modes:
            device.chmod(0o666)  # as udev has them; some machines have no udev
        run.mkdir(mode=0o700)
        shutil.chown(run, _USER)
        daemon = _start(run)
        url = f"unix://{run}/docker.sock"
        wait_until("the rootless engine answers", lambda: _answers(url, daemon), 60, every_s=0.2)
        build = [sys.executable, "-P", "-m", "workers.images.build", "--registry", REGISTRY, "python3.11"]
        subprocess.run(build, env={**os.environ, "DOCKER_HOST": url}, check=True, capture_output=True)
        yield url
    finally:
        if daemon is not None:
            _stop(daemon)
        for device, mode in modes.items():
            device.chmod(mode & 0o7777)
        shutil.rmtree(run, ignore_errors=True)
        subprocess.run(["userdel", "--remove", _USER], check=False, capture_output=True)
        shutil.rmtree(f"/home/{_USER}", ignore_errors=True)


def _start(run: Path) -> "subprocess.Popen[bytes]":
    environ = {
        "HOME": f"/home/{_USER}", "XDG_RUNTIME_DIR": str(run), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    }  # fmt: skip
    as_user = ["setpriv", "--reuid", _USER, "--regid", _USER, "--init-groups", "--"]
    with (run / "dockerd.log").open("wb") as log:
        return spawn([*as_user, str(_SCRIPT), "--iptables=false"], environ, output=log)


def _answers(url: str, daemon: "subprocess.Popen[bytes]") -> bool:
    assert daemon.poll() is None, "the rootless engine ended"
    with suppress(EngineError), Engine.connect(url) as engine:
        return engine.info().rootless
    return False


def _stop(daemon: "subprocess.Popen[bytes]") -> None:
    family = tree([daemon.pid])
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
    for process in family:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    wait_until_gone(family)
