"""The commands' side of the ``/_everwarm/`` pages."""

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from dispatcher.settings import Credential, parse_credentials
from workers.contract.settings import parse_variable, url

DEFAULT_ENDPOINT: Final = "http://127.0.0.1:4566"


class ServerError(Exception):
    """The server can't be reached or answers with an error; one line for people."""


class Server:
    """A running server. Requests are signed when there are credentials, which it asks for off loopback."""

    def __init__(self, endpoint: str, credential: Credential | None = None) -> None:
        self.endpoint = endpoint
        self._credential = credential

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Server":
        """The server at ``EVERWARM_ENDPOINT``, with the first of ``EVERWARM_CREDENTIALS``, else of AWS's two variables."""
        endpoint = environ.get("EVERWARM_ENDPOINT") or DEFAULT_ENDPOINT
        endpoint = parse_variable("EVERWARM_ENDPOINT", endpoint, url("http", "https"))
        given = environ.get("EVERWARM_CREDENTIALS")
        if given:
            return cls(endpoint, parse_variable("EVERWARM_CREDENTIALS", given, parse_credentials, secret=True)[0])
        key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
        return cls(endpoint, Credential(key, secret, "") if key and secret else None)

    def healthy(self) -> bool:
        """Whether the server can run a function now; answers within a second or so."""
        try:
            with self._request("GET", "/_everwarm/health", timeout_s=1) as response:
                return response.status == 200
        except ServerError:
            return False

    def json(self, path: str) -> Any:
        """The JSON document of a page, which is an object."""
        with self._request("GET", path, timeout_s=10) as response:
            return self._document(response)

    def post(self, path: str, document: object) -> Any:
        """Send a JSON document to a page; the one it answers."""
        with self._request("POST", path, json.dumps(document).encode(), timeout_s=60) as response:
            return self._document(response)

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of a page as they come; a page may never end."""
        with self._request("GET", path, timeout_s=None) as response:
            yield from response

    def _request(
        self, method: str, path: str, body: bytes | None = None, *, timeout_s: float | None
    ) -> http.client.HTTPResponse:
        parts = urlsplit(self.endpoint)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=timeout_s or 3600)
        try:
            connection.request(method, path, body, self._headers(method, path, body))
            response = connection.getresponse()
        except ConnectionRefusedError:
            raise ServerError(
                f"no server at {self.endpoint}: start one with `everwarm up`, or name another with --endpoint"
            ) from None
        except (OSError, ssl.SSLError, http.client.HTTPException) as error:
            raise ServerError(f"server at {self.endpoint}: {error}") from None
        if response.status != 200:
            message = _message(self._body(response))
            raise ServerError(f"server at {self.endpoint} answers {response.status}: {message}")
        return response

    def _document(self, response: http.client.HTTPResponse) -> Any:
        """Whatever listens there may be no Everwarm at all."""
        body = self._body(response)
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ServerError(f"server at {self.endpoint} answers as no Everwarm does: {_line(body)}")
        return found

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"server at {self.endpoint}: {error}") from None

    def _headers(self, method: str, path: str, body: bytes | None) -> dict[str, str]:
        if self._credential is None:
            return {}
        # Costs a quarter of a second, and only servers off loopback ask for it.
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        request = AWSRequest(method, self.endpoint + path, {"host": urlsplit(self.endpoint).netloc}, body)
        SigV4Auth(Credentials(self._credential.key, self._credential.secret), "lambda", "us-east-1").add_auth(request)
        return dict(request.headers.items())


def segment(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="")


def _message(body: bytes) -> str:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return str(found.get("message") or found.get("Message") or found)
    return _line(body)


def _line(body: bytes) -> str:
    """The beginning of an answer, as one line that commands no terminal."""
    words = " ".join(body[:200].decode(errors="replace").split())
    return "".join(c if c.isprintable() else "\ufffd" for c in words) or "nothing"
