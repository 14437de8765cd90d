"""The relay's build, and its own tests."""

import os
import subprocess
from pathlib import Path

import pytest

from workers.relay import binaries, build


def test_the_binary_of_this_machine_is_where_the_worker_looks() -> None:
    assert build.build(build.host_architecture()) == binaries.host_binary()
    assert build.is_current(binaries.host_binary())


def test_a_binary_older_than_a_source_is_not_current(tmp_path: Path) -> None:
    old = tmp_path / "relay"
    assert not build.is_current(old)
    old.touch()
    assert build.is_current(old)
    os.utime(old, (0, 0))
    assert not build.is_current(old)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path))
    with pytest.raises(OSError, match="no `go` on PATH"):
        build.find_go()


def test_an_unknown_architecture_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(OSError, match="this machine is riscv64"):
        build.host_architecture()


@pytest.mark.timeout(300)
def test_the_relays_own_tests_pass() -> None:
    environment = {**os.environ, "GOFLAGS": "", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    done = subprocess.run(
        [build.find_go(), "test", "./..."],
        cwd=build.HERE,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
