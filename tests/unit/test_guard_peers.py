"""Which user is behind a local connection: asked of the real kernel."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from dispatcher.http.peers import SocketOwners, _read_proc, peer_guard, refusal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
FAMILIES = [
    pytest.param(socket.AF_INET, "127.0.0.1", "127.0.0.1", id="ipv4"),
    pytest.param(socket.AF_INET6, "::1", "::1", id="ipv6"),
    pytest.param(socket.AF_INET6, "::", "127.0.0.1", id="ipv4-on-ipv6-server"),
    pytest.param(socket.AF_INET, "127.0.0.1", "::ffff:127.0.0.1", id="mapped-client"),
]
Pair = tuple[socket.socket, socket.socket]


@contextmanager
def connected(family: int, bind: str, connect: str) -> Iterator[Pair]:
    """Client and accepted socket."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(family))
        if bind == "::":
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind((bind, 0))
        server.listen()
        client = stack.enter_context(socket.create_connection((connect, server.getsockname()[1])))
        accepted = stack.enter_context(server.accept()[0])
        yield client, accepted


def ends(accepted: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    return accepted.getsockname()[:2], accepted.getpeername()[:2]


@pytest.mark.parametrize(("family", "bind", "connect"), FAMILIES)
def test_the_owner_of_an_own_connection_is_found(family: int, bind: str, connect: str) -> None:
    with connected(family, bind, connect) as (client, accepted):
        local, remote = ends(accepted)
        owner = SocketOwners().owner_of(remote, local)
        assert owner == _read_proc(remote, local)
        assert owner is not None
        assert owner.uid == os.geteuid()
        assert owner.inode == os.fstat(client.fileno()).st_ino
        uids = range(os.geteuid(), os.geteuid() + 1)
        assert "AWS_ENDPOINT_URL_LAMBDA" in refusal(SocketOwners(), uids, local, remote)
        assert refusal(SocketOwners(), range(0), local, remote) == ""


@pytest.mark.parametrize(("family", "bind", "connect"), FAMILIES)
def test_a_socket_closed_at_once_is_nobodys(family: int, bind: str, connect: str) -> None:
    with connected(family, bind, connect) as (client, accepted):
        local, remote = ends(accepted)
        client.close()
        owner = SocketOwners().owner_of(remote, local)
        assert owner is None or not owner.inode
        assert refusal(SocketOwners(), range(0), local, remote) != ""


def test_a_connection_from_elsewhere_has_no_owner_here() -> None:
    assert refusal(SocketOwners(), range(2**31), ("192.0.2.1", 4566), ("192.0.2.2", 50_000)) == ""
    assert refusal(SocketOwners(), range(0), ("192.0.2.1", 4566), ("192.0.2.1", 1)) != ""


def test_a_listening_socket_is_no_peer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert SocketOwners().owner_of(server.getsockname(), ("127.0.0.1", 1)) is None


@pytest.mark.needs_root
def test_the_owner_of_another_users_connection_is_found() -> None:
    uid = 1_900_000_123
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        # The interpreter may be out of that user's reach, so it changes users after its start.
        program = (
            f"import os, socket; os.setgroups([]); os.setgid({uid}); os.setuid({uid});"
            f"c = socket.socket(); c.connect(('127.0.0.1', {port})); c.recv(1)"
        )
        child = subprocess.Popen([sys.executable, "-I", "-c", program], cwd="/")
        try:
            server.settimeout(20)
            accepted, _ = server.accept()
            with accepted:
                local, remote = ends(accepted)
                owner = SocketOwners().owner_of(remote, local)
                assert owner is not None
                assert owner.uid == uid
                assert refusal(SocketOwners(), range(1_900_000_000, 1_900_065_536), local, remote) != ""
        finally:
            child.kill()
            child.wait()


def test_the_protocol_asks_only_when_there_are_uids() -> None:
    assert peer_guard(range(0)).__name__ == "BoundedProtocol"
    assert peer_guard(range(1, 2)).__name__ == "PeerGuard"


def test_without_netlink_proc_answers() -> None:
    class NoNetlink(SocketOwners):
        def _open_netlink(self) -> socket.socket:
            raise PermissionError

    with connected(socket.AF_INET, "127.0.0.1", "127.0.0.1") as (_, accepted):
        local, remote = ends(accepted)
        owner = NoNetlink().owner_of(remote, local)
        assert owner is not None
        assert owner.uid == os.geteuid()
