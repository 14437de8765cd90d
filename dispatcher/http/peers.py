"""Which user is behind a local connection, asked of the kernel: netlink's sock_diag, else ``/proc/net/tcp``.

Processes of local functions run under user ids of their own and may not connect to this server: they have
``AWS_ENDPOINT_URL_LAMBDA``, the relay of their environment, which knows which function calls. uvicorn's protocol asks once
per connection and marks each request of a refused one; ``guard`` answers those.
"""

import asyncio
import ipaddress
import logging
import os
import socket
import struct
import sys
from collections.abc import Container
from pathlib import Path
from typing import Final, NamedTuple

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Key in the ASGI scope: why the connection that a request came over is refused; absent when it is not.
REFUSED: Final = "everwarm.refused"

Address = tuple[str, int]
_logger: Final = logging.getLogger(__name__)

_FUNCTION_PEER: Final = "functions reach this API through AWS_ENDPOINT_URL_LAMBDA"
_UNKNOWN_PEER: Final = "the kernel does not say which user this local connection belongs to"
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


def plain_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that ``text`` writes, an IPv4 one also where IPv6 wraps it; None when ``text`` is no address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


class Owner(NamedTuple):
    """What the kernel knows of a socket. Without an inode no process has it any more, and the uid means nothing."""

    uid: int
    inode: int


class SocketOwners:
    """Looks up who owns a local socket. Not for use by several threads at once."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None
        self._pid = 0

    def owner_of(self, local: Address, remote: Address) -> Owner | None:
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
    plain = plain_address(address[0])
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
    """The owner as ``/proc/net/tcp`` and ``tcp6`` have it: slower than netlink, and in every kernel."""
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
    plain = plain_address(address[0])
    if plain is None:
        raise OSError(f"not an address: {address[0]}")
    data = plain.packed
    if mapped and plain.version == 4:
        data = b"\0" * 10 + b"\xff\xff" + data
    words = struct.unpack(f"={len(data) // 4}I", data)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


def refusal(owners: SocketOwners, uids: Container[int], local: Address, remote: Address) -> str:
    """Why a connection is refused, or an empty string.

    A socket that no process has any more has lost its uid: a function could send a request and close at once. So a local
    connection whose owner is not known is refused as well.
    """
    owner = owners.owner_of(remote, local)
    if owner is None:
        return _UNKNOWN_PEER if _is_local(local, remote) else ""
    if not owner.inode:
        return _UNKNOWN_PEER
    return _FUNCTION_PEER if owner.uid in uids else ""


def _is_local(local: Address, remote: Address) -> bool:
    """Whether a connection can only come from this machine, by its addresses alone."""
    peer = plain_address(remote[0])
    return peer is not None and (peer.is_loopback or peer == plain_address(local[0]))


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which itself would take a request line and headers without end."""

    _head_bytes = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        """Bytes arrived: what comes before the headers are complete is counted, and too much of it is answered with 400."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _LONGEST_HEAD:
                self.send_400_response("Request line and headers are too long.")
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The headers are complete: what follows is the body."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is complete: what follows is the head of another."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()


def peer_guard(uids: range) -> type[HttpToolsProtocol]:
    """The HTTP protocol for uvicorn (``http=``): bounded, and marking the connections of functions as refused.

    Without the kernel's help (no Linux, or a sandbox that hides its sockets) every connection is let through, and a
    warning says so once, here.
    """
    owners = SocketOwners()
    if not uids or not _kernel_answers(owners):
        return BoundedProtocol

    class PeerGuard(BoundedProtocol):
        """A protocol that asks the kernel once per connection, and marks every request of a refused one."""

        _refused: str = ""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """A connection was made: the kernel is asked whose it is."""
            super().connection_made(transport)
            local, remote = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
            if isinstance(local, tuple) and isinstance(remote, tuple):
                self._refused = _refusal_or_unknown(owners, uids, local[:2], remote[:2])

        def on_message_begin(self) -> None:
            """A request begins, and with it a new scope, which gets the mark."""
            super().on_message_begin()
            if self._refused:
                self.scope[REFUSED] = self._refused  # type: ignore[typeddict-unknown-key]

    return PeerGuard


def _refusal_or_unknown(owners: SocketOwners, uids: range, local: Address, remote: Address) -> str:
    try:
        return refusal(owners, uids, local, remote)
    except OSError:
        _logger.exception("asking the kernel who connects failed")
        return _UNKNOWN_PEER


def _kernel_answers(owners: SocketOwners) -> bool:
    """Whether the kernel says who connects: asked about a connection of our own, whose owner is known."""
    if sys.platform != "linux":
        return False
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            owner = owners.owner_of(client.getsockname(), client.getpeername())
    except OSError:
        owner = None
    if owner is None or owner.uid != os.geteuid() or not owner.inode:
        _logger.warning("the kernel does not say who connects: functions can reach this API past their relay")
        return False
    return True
