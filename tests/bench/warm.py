"""The least that an HTTP client can do, on one kept connection."""

import socket
from urllib.parse import urlsplit

from tests.bench.load import Call

_PAYLOAD = b'{"message":"hello"}'
_ANSWER_S = 60


def connect(endpoint: str, function: str) -> Call:
    """A call invokes the function synchronously, and expects its event back."""
    connection = Connection(endpoint)
    return lambda: connection.invoke(function)


class Connection:
    """One connection to the server."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=_ANSWER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = parts.netloc

    def invoke(self, function: str) -> None:
        """One invocation; raises ``AssertionError`` when the answer is not the event."""
        self._socket.sendall(
            b"POST /2015-03-31/functions/%b/invocations HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (function.encode(), self._host.encode(), len(_PAYLOAD), _PAYLOAD)
        )
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(body) < length:
            body += self._receive()
        assert head.startswith(b"HTTP/1.1 200"), data
        assert body.replace(b" ", b"") == _PAYLOAD, data

    def _receive(self) -> bytes:
        data = self._socket.recv(65536)
        assert data, "the server closed the connection"
        return data

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
