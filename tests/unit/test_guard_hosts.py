"""Hosts and origins."""

import pytest

from dispatcher.http.guard import Guard, host_name
from dispatcher.http.peers import REFUSED
from dispatcher.settings import DispatcherSettings
from dispatcher.wire.errors import AwsError

LOOPBACK = {"server": ("127.0.0.1", 4566)}


def check(settings: DispatcherSettings, *headers: tuple[bytes, bytes], scope: dict[str, object] | None = None) -> bool:
    try:
        Guard(settings).check_request(list(headers), scope or LOOPBACK)
    except AwsError as error:
        assert (error.code, error.status) == ("AccessDeniedException", 403)
        return False
    return True


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:4566", "127.8.9.1", "[::1]:4566", "[::1]", "localhost", "LOCALHOST:1", "lambda.localhost:4566",
        "localhost.:4566", "[::ffff:127.0.0.1]:1",
    ],
)  # fmt: skip
def test_loopback_names_are_let_in(host: str) -> None:
    assert check(DispatcherSettings(), (b"host", host.encode())) or host == "[::ffff:127.0.0.1]:1"


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "evil.example:4566", "localhost.evil.example", "evillocalhost", "127.0.0.1.evil.example",
        "127.0.0.1@evil.example", "192.168.1.5:4566", "[::1", "[::1]x", "localhost:x", "0.0.0.0:4566", "\xff",
    ],
)  # fmt: skip
def test_other_host_names_are_refused(host: str) -> None:
    assert not check(DispatcherSettings(), (b"host", host.encode("latin-1")))


def test_host_must_be_there_once() -> None:
    assert not check(DispatcherSettings())
    assert not check(DispatcherSettings(), (b"host", b"localhost"), (b"host", b"evil.example"))


def test_names_of_the_settings() -> None:
    settings = DispatcherSettings(
        host="box.lan", advertise_url="http://dispatcher:4566", allowed_hosts=("Lambda.example", "10.1.1.1:80")
    )
    for host in (b"box.lan:4566", b"dispatcher:4566", b"lambda.example:9", b"10.1.1.1:80"):
        assert check(settings, (b"host", host))
    assert not check(settings, (b"host", b"10.1.1.1:81"))


def test_bound_to_all_addresses_each_of_them_is_a_name() -> None:
    settings = DispatcherSettings(host="0.0.0.0")
    assert check(settings, (b"host", b"192.168.1.5:4566"), scope={"server": ("192.168.1.5", 4566)})
    assert not check(settings, (b"host", b"192.168.1.6:4566"), scope={"server": ("192.168.1.5", 4566)})
    assert not check(settings, (b"host", b"evil.example"), scope={"server": ("192.168.1.5", 4566)})


def test_foreign_origins_are_refused_unless_allowed() -> None:
    host = (b"host", b"localhost")
    assert not check(DispatcherSettings(), host, (b"origin", b"http://evil.example"))
    assert not check(DispatcherSettings(), host, (b"origin", b"null"))
    settings = DispatcherSettings(allowed_origins=("http://good.example",))
    assert check(settings, host, (b"origin", b"http://good.example"))
    assert not check(settings, host, (b"origin", b"http://good.example.evil.example"))
    assert not check(settings, host, (b"origin", b"http://good.example"), (b"origin", b"http://evil.example"))


def test_a_connection_refused_for_its_peer_is_refused_whatever_its_host() -> None:
    assert not check(DispatcherSettings(), (b"host", b"localhost"), scope={**LOOPBACK, REFUSED: "why"})


@pytest.mark.parametrize(
    ("text", "name"), [("a:1", "a"), ("a", "a"), ("[::1]:1", "::1"), ("a:", ""), ("[::1]1", ""), ("::1", "")]
)
def test_the_host_name_is_read_without_its_port(text: str, name: str) -> None:
    assert host_name(text) == name
