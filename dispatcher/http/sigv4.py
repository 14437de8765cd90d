"""AWS Signature Version 4, verified: in the Authorization header, or in the query of a presigned URL.

The canonical request is built from the raw path and query as they came over the wire, by the rules that botocore signs
by for every service but S3: dot segments are removed from the path, which is then encoded once more.
Reading a signature (:func:`read_signature`) needs no body and checks everything that can be checked without one;
:func:`verify` does the rest.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from botocore.utils import normalize_url_path

from dispatcher.settings import Credential
from dispatcher.wire.errors import AwsError

SERVICE: Final = "lambda"
ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
SKEW: Final = timedelta(minutes=15)
_LONGEST_PRESIGNED_S: Final = 7 * 24 * 3600
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_SAFE: Final = "-_.~"
_HEX_SIGNATURE: Final = re.compile(r"[0-9a-f]{64}")
#: What a request that claims to be signed may not carry unsigned, beside every ``x-amz-`` header.
_MUST_BE_SIGNED: Final = b"host"

RawHeaders = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Scope:
    """``<access key>/<date>/<region>/<service>/aws4_request``."""

    key: str
    date: str
    region: str
    service: str


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature as a request carries it, not verified yet."""

    scope: Scope
    signed_headers: tuple[str, ...]
    hex: str
    stamp: str
    """Time of signing, ``20261123T110000Z``."""
    expires_s: int | None
    """Life of a presigned URL; None for a signature in the header."""

    @property
    def presigned(self) -> bool:
        """Whether the signature stands in the query."""
        return self.expires_s is not None


def read_scope(credential: str) -> Scope | None:
    """Take a Credential apart; None when it is none. Keys may contain slashes, the rest may not."""
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or parts[4] != "aws4_request" or not parts[0]:
        return None
    return Scope(*parts[:4])


def credential_text(authorization: str, query: str) -> str:
    """The text of the Credential in the header or a presigned query; empty when there is none."""
    if authorization:
        match = re.search(r"Credential=([^\s,]+)", authorization)
        return match[1] if match else ""
    if "X-Amz-Credential=" in query:
        return dict(parse_qsl(query)).get("X-Amz-Credential", "")
    return ""


def read_signature(headers: Mapping[bytes, bytes], query: str) -> Signature | None:
    """The signature of a request; None when it carries none.

    Raises ``IncompleteSignatureException`` for a malformed one, and ``InvalidSignatureException`` for another service's.
    """
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    if authorization:
        return _from_header(authorization, headers)
    if "X-Amz-Signature=" in query or "X-Amz-Credential=" in query:
        return _from_query(dict(parse_qsl(query, keep_blank_values=True)))
    return None


def _from_header(authorization: str, headers: Mapping[bytes, bytes]) -> Signature:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != ALGORITHM:
        raise _incomplete(f"Unsupported AWS 'algorithm': '{algorithm[:64]}'.")
    fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    missing = [name for name in ("Credential", "Signature", "SignedHeaders") if not fields.get(name)]
    stamp = _stamp_of(headers)
    wanted = [f"Authorization header requires '{name}' parameter." for name in missing]
    if not stamp:
        wanted.append("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    if wanted:
        raise _incomplete(" ".join(wanted))
    return _signature(fields["Credential"], fields["SignedHeaders"], fields["Signature"], stamp, None)


def _stamp_of(headers: Mapping[bytes, bytes]) -> str:
    """The time of signing in SigV4's form, from ``X-Amz-Date`` or ``Date``."""
    stamp = headers.get(b"x-amz-date")
    if stamp is not None:
        return stamp.decode("latin-1")
    date = headers.get(b"date", b"").decode("latin-1")
    if re.fullmatch(r"\d{8}T\d{6}Z", date, re.ASCII):
        return date
    try:
        return parsedate_to_datetime(date).astimezone(UTC).strftime(_STAMP) if date else ""
    except (ValueError, OverflowError):
        return ""


def _from_query(fields: Mapping[str, str]) -> Signature:
    names = ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
    missing = [name for name in names if not fields.get(f"X-Amz-{name}")]
    if missing:
        wanted = " ".join(f"AWS query-string parameters must include 'X-Amz-{name}'." for name in missing)
        raise _incomplete(wanted)
    if fields["X-Amz-Algorithm"] != ALGORITHM:
        raise _incomplete("Unsupported AWS 'algorithm'.")
    expires = fields["X-Amz-Expires"]
    if not re.fullmatch(r"\d{1,6}", expires, re.ASCII) or not 0 < int(expires) <= _LONGEST_PRESIGNED_S:
        raise _incomplete(f"X-Amz-Expires must be a number of seconds from 1 to {_LONGEST_PRESIGNED_S}.")
    return _signature(
        fields["X-Amz-Credential"],
        fields["X-Amz-SignedHeaders"],
        fields["X-Amz-Signature"],
        fields["X-Amz-Date"],
        int(expires),
    )


def _signature(credential: str, signed_headers: str, signature: str, stamp: str, expires_s: int | None) -> Signature:
    scope = read_scope(credential)
    if scope is None:
        raise _incomplete(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term."
        )
    if scope.service != SERVICE:
        raise _invalid(f"Credential should be scoped to correct service: '{SERVICE}'. ")
    if not stamp.startswith(scope.date):
        raise _invalid("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.")
    names = tuple(signed_headers.split(";"))
    return Signature(scope, names, signature, stamp, expires_s)


def find_credential(signature: Signature, credentials: Sequence[Credential]) -> Credential:
    """The credential that a signature claims; raises ``UnrecognizedClientException`` for one that nobody has."""
    for credential in credentials:
        if hmac.compare_digest(credential.key.encode(), signature.scope.key.encode()):
            return credential
    raise AwsError("UnrecognizedClientException", "The security token included in the request is invalid.")


def check_time(signature: Signature, now: datetime) -> None:
    """Raises ``InvalidSignatureException`` when a signature is too old, or signed too far in the future."""
    try:
        signed = datetime.strptime(signature.stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        raise _incomplete(f"Date must be in ISO-8601 'basic format'. Got '{signature.stamp[:32]}'.") from None
    life = timedelta(seconds=signature.expires_s) if signature.expires_s is not None else SKEW
    if now > signed + life:
        raise _invalid(
            f"Signature expired: {signature.stamp} is now earlier than {_basic(now - life)} ({_basic(now)} - {_span(life)}.)"
        )
    if now < signed - SKEW:
        raise _invalid(
            f"Signature not yet current: {signature.stamp} is still later than {_basic(now + SKEW)} ({_basic(now)} + 15 min.)"
        )


def _basic(moment: datetime) -> str:
    return moment.strftime(_STAMP)


def _span(life: timedelta) -> str:
    return f"{int(life.total_seconds() // 60)} min"


def verify(
    signature: Signature, secret: str, method: str, raw_path: str, query: str, headers: RawHeaders, body: bytes
) -> None:
    """Raises ``InvalidSignatureException`` unless the signature is the one that ``secret`` gives for this request.

    ``headers`` are in the order of the wire, names in lower case. The time is :func:`check_time`'s business.
    """
    _check_signed_headers(signature, headers)
    canonical_headers = _canonical_headers(signature.signed_headers, headers)
    canonical_path = quote(normalize_url_path(raw_path), safe="/~")
    start = f"{method}\n{canonical_path}\n{_canonical_query(query)}\n{canonical_headers}\n"
    given = _HEX_SIGNATURE.fullmatch(signature.hex) is not None
    key = _signing_key(secret, signature.scope.date, signature.scope.region)
    for payload_hash in _payload_hashes(signature, headers, body):
        expected = _sign(key, signature, f"{start}{payload_hash}")
        if given and hmac.compare_digest(expected, signature.hex):
            return
    raise _invalid(
        "The request signature we calculated does not match the signature you provided. "
        "Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
    )


def _check_signed_headers(signature: Signature, headers: RawHeaders) -> None:
    signed = set(signature.signed_headers)
    for name, _ in headers:
        if (name == _MUST_BE_SIGNED or name.startswith(b"x-amz-")) and name.decode("latin-1") not in signed:
            raise _invalid(f"'{name.decode('latin-1')}' must be a 'SignedHeader' in the AWS Authorization.")


def _canonical_headers(names: Sequence[str], headers: RawHeaders) -> str:
    """One line a header, an empty line, and the list of names."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.decode("latin-1"), []).append(" ".join(_text(value).split()))
    missing = [name for name in names if name not in values]
    if missing:
        raise _invalid(f"The request lacks headers that it names as signed: {', '.join(missing)}.")
    lines = "".join(f"{name}:{','.join(values[name])}\n" for name in sorted(set(names)))
    return f"{lines}\n{';'.join(names)}"


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _canonical_query(query: str) -> str:
    pairs = []
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        name = unquote(name)
        if name != "X-Amz-Signature":
            pairs.append((quote(name, safe=_SAFE), quote(unquote(value), safe=_SAFE)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _payload_hashes(signature: Signature, headers: RawHeaders, body: bytes) -> list[str]:
    """What may stand for the body in the canonical request."""
    declared = next((value.decode("latin-1") for name, value in headers if name == b"x-amz-content-sha256"), "")
    if declared == UNSIGNED:  # The header itself is signed (see ``_check_signed_headers``), so the caller means it.
        return [UNSIGNED]
    actual = hashlib.sha256(body).hexdigest()
    if declared and declared != actual:
        raise _invalid("The provided 'x-amz-content-sha256' header does not match what was computed.")
    return [actual, UNSIGNED] if signature.presigned else [actual]


def _sign(key: bytes, signature: Signature, canonical_request: str) -> str:
    scope = signature.scope
    digest = hashlib.sha256(canonical_request.encode()).hexdigest()
    text = f"{ALGORITHM}\n{signature.stamp}\n{scope.date}/{scope.region}/{scope.service}/aws4_request\n{digest}"
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


@lru_cache(maxsize=256)
def _signing_key(secret: str, date: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, SERVICE, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _incomplete(message: str) -> AwsError:
    return AwsError("IncompleteSignatureException", message)


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidSignatureException", message)
