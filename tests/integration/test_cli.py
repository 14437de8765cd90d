"""The commands: one line for errors, one JSON document for ``--json``."""

import fcntl
import json
import socket
from pathlib import Path

import pytest

from tests.services.commands import everwarm
from tests.services.processes import free_port


def test_help_names_every_command() -> None:
    done = everwarm("--help")
    assert done.status == 0
    for command in ("up", "dispatcher", "worker", "ps", "logs", "doctor", "demo", "images"):
        assert f"  {command}" in done.out


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (
            ("up", "--mode", "docekr"),
            {},
            "everwarm: LAMBDA_EXECUTOR=docekr: must be one of local, docker, docker-reuse",
        ),
        (
            ("up", "--mode", "docker"),
            {"DOCKER_HOST": "unix:///nowhere"},
            "everwarm: LAMBDA_EXECUTOR=docker: no Docker daemon answers",
        ),
        (
            ("worker", "--mode", "docker-reuse"),
            {"DOCKER_HOST": "unix:///nowhere", "EVERWARM_REDIS_URL": "redis://:x@127.0.0.1:1/0"},
            "everwarm: EVERWARM_MODE=docker-reuse: no Docker daemon answers",
        ),
        (("up",), {"LAMBDA_KEEPALIVE_MS": "10s"}, "everwarm: LAMBDA_KEEPALIVE_MS=10s: must be a whole number"),
        (("up", "--host", "0.0.0.0"), {}, "everwarm: EVERWARM_HOST=0.0.0.0: other machines could run code here"),
        (("dispatcher",), {}, "everwarm: EVERWARM_REDIS_URL=: must be set"),
        (("worker", "--mode", "local"), {}, "everwarm: EVERWARM_REDIS_URL=: must be set"),
        (("worker", "--mode", "x"), {}, "everwarm: EVERWARM_MODE=x: must be one of"),
        (("ps", "--endpoint", "localhost"), {}, "everwarm: EVERWARM_ENDPOINT=localhost: must be a URL"),
    ],
)
def test_mistakes_get_one_line(arguments: tuple[str, ...], environ: dict[str, str], message: str) -> None:
    done = everwarm(*arguments, environ=environ)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(message)
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", ["ps", "logs"])
def test_no_server_is_one_line(command: str) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    done = everwarm(command, *(["f"] if command == "logs" else ["--json"]), environ={"EVERWARM_ENDPOINT": endpoint})
    assert (done.status, done.out) == (2, "")
    assert (
        done.err
        == f"everwarm: no server at {endpoint}: start one with `everwarm up`, or name another with --endpoint\n"
    )


def test_port_in_use_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = everwarm("up", "--port", str(port), "--data", str(tmp_path / "data"))
    assert done.status == 2
    assert done.err == (
        f"everwarm: can't listen on 127.0.0.1 port {port}: Address already in use; choose another with --port\n"
    )
    assert not (tmp_path / "data/redis").exists()


def test_second_up_on_a_data_directory_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "up.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("1234\n")
        held.flush()
        done = everwarm("up", "--port", str(free_port()), "--data", str(tmp_path))
    assert done.status == 2
    assert f"another `everwarm up` (process 1234) uses {tmp_path}: stop it, or choose another" in done.err


def test_data_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = everwarm("up", "--data", str(tmp_path / "file/data"), "--port", str(free_port()))
    assert done.status == 2
    assert done.err.startswith(f"everwarm: data directory {tmp_path}/file/data: Not a directory")


def test_doctor_prints_one_json_document(tmp_path: Path) -> None:
    environ = {
        "EVERWARM_DATA": str(tmp_path),
        "EVERWARM_PORT": str(free_port()),
        "EVERWARM_CREDENTIALS": "key:planted:000000000001",
        "LAMBDA_JAVA_OPTS": "-Xmx1g",
    }
    done = everwarm("doctor", "--json", environ=environ)
    assert (done.status, done.err) == (0, "")
    report = json.loads(done.out)
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert states["redis"] == states["mode"] == states["relay"] == states["port"] == "ok"
    assert [check["name"] for check in report["checks"] if "LAMBDA_JAVA_OPTS" in check["text"]] == ["settings"]
    sources = {row["variable"]: row["source"] for row in report["settings"]}
    assert sources["EVERWARM_DATA"] == "environment"
    assert sources["LAMBDA_KEEPALIVE_MS"] == "default"
    assert "planted" not in done.out


def test_doctor_names_an_invalid_setting() -> None:
    done = everwarm("doctor", environ={"EVERWARM_DRAIN_S": "soon"})
    assert done.status == 1
    assert "EVERWARM_DRAIN_S=soon: must be a number from 0 to 3600" in done.out


def test_doctor_sees_a_port_in_use_and_a_redis_that_is_absent() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environ = {
            "EVERWARM_PORT": str(taken.getsockname()[1]),
            "EVERWARM_REDIS_URL": f"redis://:planted@127.0.0.1:{free_port()}/0",
        }
        done = everwarm("doctor", "--json", environ=environ)
    assert done.status == 1
    problems = {check["name"] for check in json.loads(done.out)["checks"] if check["state"] == "problem"}
    assert problems == {"port", "redis"}
    assert "planted" not in done.out
