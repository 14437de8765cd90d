"""Who may talk to this server at all, before anything is routed.

An open API on loopback is one web page away from running code, so requests must name this server in ``Host`` (a name
that an attacker's DNS points at 127.0.0.1 does not) and must not come from a web page of another origin. Processes of
local functions run under user ids of their own and may not connect here: they have ``AWS_ENDPOINT_URL_LAMBDA``, the
relay of their environment, which knows which function calls. Which user a local connection belongs to is asked of the
kernel, once per connection: netlink's sock_diag, else ``/proc/net/tcp``.
"""

import asyncio
import ipaddress
import logging
import os
import socket
import struct
import sys
from collections.abc import Container, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dispatcher.settings import DispatcherSettings
from dispatcher.wire.errors import AwsError

#: Key in the ASGI scope: why the connection that a request came over is refused; absent when it is not.
REFUSED: Final = "everwarm.refused"

Address = tuple[str, int]
_logger: Final = logging.getLogger(__name__)

_FUNCTION_PEER: Final = "functions reach this API through AWS_ENDPOINT_URL_LAMBDA"
_UNKNOWN_PEER: Final = "the kernel does not say which user this local connection belongs to"


class Guard:
    """Checks the ``Host`` and ``Origin`` of requests."""

    def __init__(self, settings: DispatcherSettings) -> None:
        advertised = urlsplit(settings.advertise_url).hostname or ""
        self._names = frozenset(name.lower() for name in (settings.host, advertised, *settings.allowed_hosts) if name)
        self._origins = frozenset(settings.allowed_origins)
        self._everywhere = settings.host in {"0.0.0.0", "::"}  # noqa: S104  compared, not bound
        self.is_known = lru_cache(maxsize=256)(self._is_known)

    def check(self, headers: list[tuple[bytes, bytes]], scope: Mapping[str, Any]) -> None:
        """Raises ``AccessDeniedException`` for a request that must not be served."""
        refused = scope.get(REFUSED)
        if refused:
            raise _denied(refused)
        hosts = [value for name, value in headers if name == b"host"]
        server = scope.get("server") or ("", None)
        if len(hosts) != 1 or not self.is_known(hosts[0], server[0]):
            shown = b", ".join(hosts).decode("latin-1")[:128]
            raise _denied(f"the Host '{shown}' is not this server; EVERWARM_ALLOWED_HOSTS can allow it")
        for name, value in headers:
            if name == b"origin" and not self._origins & {value.decode("latin-1"), "*"}:
                shown = value.decode("latin-1")[:128]
                raise _denied(
                    f"requests of web pages from {shown} are refused; EVERWARM_ALLOWED_ORIGINS can allow them"
                )

    def _is_known(self, host: bytes, server: str) -> bool:
        """Whether a ``Host`` header names this server; ``server`` is the address that the connection came in on."""
        text = host.decode("latin-1").lower()
        name = host_name(text)
        if text in self._names or name in self._names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # Bound to all addresses, each of them is the server's own name; a rebound DNS name never gets here.
        return address.is_loopback or (self._everywhere and address == _plain_address(server))


def host_name(text: str) -> str:
    """The name or address in a ``Host`` header, without port and brackets; empty when it is malformed."""
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        return name if bracket and (not port or (port[0] == ":" and port[1:].isdigit())) else ""
    name, colon, port = text.partition(":")
    if colon and not port.isdigit():
        return ""
    return name.removesuffix(".")


def _plain_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address, an IPv4 one also where IPv6 wraps it."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _denied(reason: str) -> AwsError:
    return AwsError("AccessDeniedException", f"Refused: {reason}.")


# --- the user behind a local connection ---


class Owner(NamedTuple):
    """What the kernel knows of a socket. Without an inode no process holds it any more, and the uid means nothing."""

    uid: int
    inode: int


_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_NLMSG_ERROR: Final = 2
_TCP_LISTEN: Final = 10
_HEADER: Final = struct.Struct("=IHHII")
_NO_COOKIE: Final = b"\xff" * 8
_UID_OFFSET: Final = _HEADER.size + 64
_ROW_FIELDS: Final = 10
#: Bytes of request line and headers together. What arrives with their end may be body, so this is well over one read.
_LONGEST_HEAD: Final = 512 * 1024


class SocketOwners:
    """Looks up who owns a local socket. Not for use by several threads at once."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None
        self._pid = 0

    def find(self, local: Address, remote: Address) -> Owner | None:
        """The owner of the socket whose own end is ``local``; None when this machine has none.

        Raises ``OSError`` when the kernel offers neither netlink's sock_diag nor ``/proc/net/tcp``.
        """
        try:
            return self._ask_netlink(local, remote)
        except OSError:
            self.close()
            return _read_proc(local, remote)

    def close(self) -> None:
        """Give the netlink socket back."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def _ask_netlink(self, local: Address, remote: Address) -> Owner | None:
        netlink = self._open_netlink()
        netlink.send(_diag_request(local, remote))
        reply = netlink.recv(4096)
        _, kind, _, _, _ = _HEADER.unpack_from(reply)
        if kind == _NLMSG_ERROR:
            (code,) = struct.unpack_from("=i", reply, _HEADER.size)
            if code == -2:  # ENOENT
                return None
            raise OSError(-code, os.strerror(-code))
        if reply[_HEADER.size + 1] == _TCP_LISTEN:
            return None
        return Owner(*struct.unpack_from("=II", reply, _UID_OFFSET))

    def _open_netlink(self) -> socket.socket:
        if self._netlink is None or self._pid != os.getpid():
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
            # The kernel has answered when ``send`` returns; nothing to wait for.
            self._netlink.setblocking(False)
            self._pid = os.getpid()
        return self._netlink


def _packed(address: Address) -> tuple[int, bytes]:
    """Address family and 16 bytes; IPv4 also where IPv6 wraps it, for that is how the kernel finds such sockets."""
    plain = _plain_address(address[0])
    if plain is None:
        raise OSError(f"not an address: {address[0]}")
    family = socket.AF_INET if plain.version == 4 else socket.AF_INET6
    return family, plain.packed.ljust(16, b"\0")


def _diag_request(local: Address, remote: Address) -> bytes:
    """``nlmsghdr`` and ``inet_diag_req_v2`` of linux/inet_diag.h."""
    family, local_bytes = _packed(local)
    _, remote_bytes = _packed(remote)
    body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    body += struct.pack(">HH", local[1], remote[1]) + local_bytes + remote_bytes + struct.pack("=I", 0) + _NO_COOKIE
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body


def _read_proc(local: Address, remote: Address) -> Owner | None:
    """The same from ``/proc/net/tcp`` and ``tcp6``: slower, and in every kernel."""
    wanted = {(_proc_form(local, mapped), _proc_form(remote, mapped)) for mapped in (False, True)}
    for name in ("tcp", "tcp6"):
        path = Path("/proc/net") / name
        if name == "tcp6" and not path.exists():
            continue
        for line in path.read_text().splitlines()[1:]:
            row = line.split()
            if len(row) >= _ROW_FIELDS and (row[1], row[2]) in wanted and row[3] != f"{_TCP_LISTEN:02X}":
                return Owner(int(row[7]), int(row[9]))
    return None


def _proc_form(address: Address, mapped: bool) -> str:
    """An address as ``/proc/net/tcp`` writes it: 32-bit words in the machine's byte order."""
    plain = _plain_address(address[0])
    if plain is None:
        raise OSError(f"not an address: {address[0]}")
    data = plain.packed
    if mapped and plain.version == 4:
        data = b"\0" * 10 + b"\xff\xff" + data
    words = struct.unpack(f"={len(data) // 4}I", data)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


def peer_uid(local: Address, remote: Address) -> int | None:
    """The user id of the process at the other end of a connection; ``local`` is this end, ``remote`` the other.

    None when the other end is not on this machine, or no process holds it any more.
    """
    owners = SocketOwners()
    try:
        owner = owners.find(remote, local)
    finally:
        owners.close()
    return owner.uid if owner is not None and owner.inode else None


def refusal(owners: SocketOwners, uids: Container[int], local: Address, remote: Address) -> str:
    """Why a connection is refused, or an empty string.

    A socket that nobody holds any more has lost its uid: a function could send a request and close at once. So a local
    connection whose owner is not known is refused as well.
    """
    owner = owners.find(remote, local)
    if owner is None:
        return _UNKNOWN_PEER if _is_local(local, remote) else ""
    if not owner.inode:
        return _UNKNOWN_PEER
    return _FUNCTION_PEER if owner.uid in uids else ""


def _is_local(local: Address, remote: Address) -> bool:
    """Whether a connection can only come from this machine, by its addresses alone."""
    peer = _plain_address(remote[0])
    return peer is not None and (peer.is_loopback or peer == _plain_address(local[0]))


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which itself would take a request line and headers without end."""

    _head_bytes = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        """Count what comes before the headers are complete."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _LONGEST_HEAD:
                self.send_400_response("Request line and headers are too long.")
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """What follows is the body's."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What follows is another request."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()


def peer_guard(uids: range) -> type[HttpToolsProtocol]:
    """The HTTP protocol for uvicorn (``http=``): bounded, and marking the connections of functions as refused.

    Without the kernel's help (no Linux, or a sandbox that hides its sockets) every connection is let through, and a
    warning says so once, here.
    """
    owners = SocketOwners()
    if not uids or not _works(owners):
        return BoundedProtocol

    class PeerGuard(BoundedProtocol):
        """Asks once per connection, marks every request of it."""

        _refused: str = ""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """A connection is there: whose is it?"""
            super().connection_made(transport)
            local, remote = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
            if isinstance(local, tuple) and isinstance(remote, tuple):
                self._refused = _ask(owners, uids, local[:2], remote[:2])

        def on_message_begin(self) -> None:
            """A request begins; its scope is new."""
            super().on_message_begin()
            if self._refused:
                self.scope[REFUSED] = self._refused  # type: ignore[typeddict-unknown-key]

    return PeerGuard


def _ask(owners: SocketOwners, uids: range, local: Address, remote: Address) -> str:
    try:
        return refusal(owners, uids, local, remote)
    except OSError:
        _logger.exception("asking the kernel who connects failed")
        return _UNKNOWN_PEER


def _works(owners: SocketOwners) -> bool:
    """Ask about a connection of our own, whose answer is known."""
    if sys.platform != "linux":
        return False
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            owner = owners.find(client.getsockname(), client.getpeername())
    except OSError:
        owner = None
    if owner is None or owner.uid != os.geteuid() or not owner.inode:
        _logger.warning("the kernel does not say who connects: functions can reach this API past their relay")
        return False
    return True
