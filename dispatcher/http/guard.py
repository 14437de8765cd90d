"""Who may talk to this server at all, before anything is routed.

An open API on loopback is one web page away from running code, so requests must name this server in ``Host`` (a name
that an attacker's DNS points at 127.0.0.1 does not) and must not come from a web page of another origin. Connections that
``peers`` found to be a function's are refused here too, where the refusal can be said in AWS's words.
"""

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from dispatcher.http.peers import REFUSED, plain_address
from dispatcher.settings import DispatcherSettings
from dispatcher.wire.errors import AwsError


class Guard:
    """Checks the ``Host`` and ``Origin`` of requests."""

    def __init__(self, settings: DispatcherSettings) -> None:
        advertised = urlsplit(settings.advertise_url).hostname or ""
        self._names = frozenset(name.lower() for name in (settings.host, advertised, *settings.allowed_hosts) if name)
        self._origins = frozenset(settings.allowed_origins)
        self._everywhere = settings.host in {"0.0.0.0", "::"}  # noqa: S104  compared, not bound
        self.is_known = lru_cache(maxsize=256)(self._is_known)

    def check_request(self, headers: list[tuple[bytes, bytes]], scope: Mapping[str, Any]) -> None:
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
        return address.is_loopback or (self._everywhere and address == plain_address(server))


def host_name(text: str) -> str:
    """The name or address in a ``Host`` header, without port and brackets; empty when it is malformed."""
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        return name if bracket and (not port or (port[0] == ":" and port[1:].isdigit())) else ""
    name, colon, port = text.partition(":")
    if colon and not port.isdigit():
        return ""
    return name.removesuffix(".")


def _denied(reason: str) -> AwsError:
    return AwsError("AccessDeniedException", f"Refused: {reason}.")
