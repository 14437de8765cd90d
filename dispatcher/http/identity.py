"""Who makes a request: the account and region it acts in, and whether a function makes it.

Three sources, the first that applies: the token that workers put on calls of functions, the signature when credentials
are configured, the unverified key and credential scope otherwise (on loopback anybody may be anybody).
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal

from dispatcher.http.sigv4 import (
    RawHeaders,
    Signature,
    check_time,
    credential_text,
    find_credential,
    read_scope,
    read_signature,
    verify,
)
from dispatcher.settings import Credential
from dispatcher.wire.errors import AwsError
from workers.contract import tokens

DEFAULT_ACCOUNT: Final = "000000000000"
DEFAULT_REGION: Final = "us-east-1"
#: As HTTP servers hand them over.
FUNCTION_HEADER: Final = tokens.FUNCTION_HEADER.encode()
TOKEN_HEADER: Final = tokens.TOKEN_HEADER.encode()
#: Key in the ASGI scope of a page: the account that signed the request; absent when no credentials are configured.
PAGE_ACCOUNT: Final = "everwarm.account"
#: What functions may call with ``EVERWARM_FUNCTION_API=invoke``.
INVOKE_OPERATIONS: Final = frozenset({"Invoke", "InvokeAsync", "InvokeWithResponseStream"})

FunctionApi = Literal["invoke", "all", "none"]
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_REGION: Final = re.compile(r"[a-z][a-z0-9-]{1,31}")


@dataclass(frozen=True, slots=True)
class Identity:
    """The account and region that a request acts in; ``function`` is the name of the function that makes it, or empty."""

    account: str
    region: str
    function: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What identity is read from: everything of a request but its body, as it came over the wire."""

    method: str
    raw_path: str
    query: str
    raw_headers: RawHeaders
    headers: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Claim:
    """An identity, with what is left to verify when the body is there."""

    identity: Identity
    signature: Signature | None = None
    secret: str = ""

    def check_body(self, request: Request, body: bytes) -> None:
        """Raises ``InvalidSignatureException`` when the signature is not this request's."""
        if self.signature is not None:
            verify(
                self.signature, self.secret, request.method, request.raw_path, request.query, request.raw_headers, body
            )


def claim_of(request: Request, credentials: Sequence[Credential], function_secret: bytes, now: datetime) -> Claim:
    """Who the request says it comes from, checked as far as that goes without the body.

    Raises the error that AWS has for what is missing, malformed, unknown or expired.
    """
    if FUNCTION_HEADER in request.headers or TOKEN_HEADER in request.headers:
        return Claim(_function_identity(request, function_secret))
    if not credentials:
        authorization = request.headers.get(b"authorization", b"").decode("latin-1")
        return Claim(_unverified(credential_text(authorization, request.query)))
    signature = read_signature(request.headers, request.query)
    if signature is None:
        raise AwsError("MissingAuthenticationTokenException", "Missing Authentication Token")
    credential = find_credential(signature, credentials)
    check_time(signature, now)
    return Claim(Identity(credential.account, _region(signature.scope.region)), signature, credential.secret)


def signer_of(scope: Mapping[str, Any]) -> str:
    """The account that signed the request of a page; empty when no credentials are configured, and anybody may be anybody."""
    return str(scope.get(PAGE_ACCOUNT, ""))


def own_account(account: str, signer: str) -> str:
    """The account to look in; raises ``AccessDeniedException`` for one that is not the signer's."""
    if signer and account not in {"", signer}:
        raise AwsError("AccessDeniedException", f"account: these credentials are of {signer}, and see no other account")
    return account or signer


def check_function_api(identity: Identity, operation: str, policy: FunctionApi) -> None:
    """Raises ``AccessDeniedException`` when a function calls what ``EVERWARM_FUNCTION_API`` keeps from it."""
    if not identity.function or policy == "all":
        return
    if policy == "none" or operation not in INVOKE_OPERATIONS:
        raise AwsError(
            "AccessDeniedException",
            f"Functions may not call {operation} here (EVERWARM_FUNCTION_API={policy}).",
        )


def _function_identity(request: Request, secret: bytes) -> Identity:
    function = request.headers.get(FUNCTION_HEADER, b"").decode("latin-1")
    token = request.headers.get(TOKEN_HEADER, b"")
    expected = tokens.function_token(secret, request.method, request.raw_path, function) if secret else ""
    account, _, rest = function.partition(":")
    region, _, name = rest.partition(":")
    if not (expected and hmac.compare_digest(expected.encode(), token) and account and region and name):
        raise AwsError("AccessDeniedException", "The function's token is not valid.")
    return Identity(account, region, name)


@lru_cache(maxsize=1024)
def _unverified(credential: str) -> Identity:
    scope = read_scope(credential)
    if scope is None:
        return Identity(DEFAULT_ACCOUNT, DEFAULT_REGION)
    account = scope.key if _ACCOUNT.fullmatch(scope.key) else DEFAULT_ACCOUNT
    return Identity(account, _region(scope.region))


def _region(text: str) -> str:
    return text if _REGION.fullmatch(text) else DEFAULT_REGION
