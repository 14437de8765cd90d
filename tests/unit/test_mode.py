"""Which mode is the default, and how a Docker daemon is found."""

import http.server
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.cli import mode
from tests.services.processes import free_port
from workers.contract.settings import SettingError, Shared


class _Daemon(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/_ping" else 404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"OK")

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        return "local"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[str]:
    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "docker.sock"), _Daemon) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"unix://{tmp_path}/docker.sock"
        server.shutdown()
        thread.join()


def test_a_daemon_is_found_by_docker_host(daemon: str) -> None:
    assert mode.find_docker({"DOCKER_HOST": daemon}) == daemon


def test_a_rootless_daemon_is_found_in_the_runtime_directory(daemon: str, tmp_path: Path) -> None:
    found = mode.find_docker({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert found in {daemon, "unix:///var/run/docker.sock"}


@pytest.mark.parametrize("address", ["unix:///nowhere", "tcp://127.0.0.1:{port}", "npipe://x", "nonsense"])
def test_a_daemon_that_does_not_answer_is_none(address: str) -> None:
    assert mode.find_docker({"DOCKER_HOST": address.format(port=free_port())}) is None


def test_the_mode_is_chosen_with_its_reason() -> None:
    assert mode.choose_mode(Shared(executor="local"), "unix:///s") == ("local", "LAMBDA_EXECUTOR=local")
    assert mode.choose_mode(Shared(), "unix:///s") == ("docker", "a Docker daemon answers at unix:///s")
    assert mode.choose_mode(Shared(), None) == ("local", "no Docker daemon answers")
    assert mode.choose_mode(Shared(executor="docker-reuse"), "unix:///s").mode == "docker-reuse"


def test_docker_without_a_daemon_names_the_mount() -> None:
    with pytest.raises(SettingError, match=r"LAMBDA_EXECUTOR=docker: no Docker daemon .*mount /var/run/docker\.sock"):
        mode.choose_mode(Shared(executor="docker"), None)
