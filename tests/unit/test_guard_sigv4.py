"""Signatures, checked against botocore's own signing."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.http.identity import Claim, Request, check_function_api, claim_of
from dispatcher.settings import Credential
from dispatcher.wire.errors import AwsError
from workers.contract.tokens import function_token

KEY = Credential("AKIAEXAMPLE", "secret/with+signs", "123456789012")
OTHER = Credential("AKIAOTHER", "other", "210987654321")
HOST = "127.0.0.1:4566"
PATH = "/2015-03-31/functions/f/invocations"
RawHeaders = list[tuple[bytes, bytes]]


def signed(
    path: str = PATH,
    *,
    method: str = "POST",
    query: str = "",
    body: bytes = b"{}",
    headers: dict[str, str] | None = None,
    presign: bool = False,
    credential: Credential = KEY,
    region: str = "eu-west-1",
    service: str = "lambda",
    expires: int = 60,
) -> tuple[Request, bytes]:
    """A request as it comes over the wire, signed by botocore."""
    url = f"http://{HOST}{path}" + (f"?{query}" if query else "")
    request: Any = AWSRequest(method, url, headers=headers or {}, data=body)
    credentials: Any = Credentials(credential.key, credential.secret)
    if presign:
        SigV4QueryAuth(credentials, service, region, expires=expires).add_auth(request)
    else:
        SigV4Auth(credentials, service, region).add_auth(request)
    parts = urlsplit(request.url)
    raw = [(b"host", HOST.encode())]
    raw += [(name.lower().encode(), str(value).encode()) for name, value in request.headers.items()]
    return wire(method, parts.path, parts.query, raw), body


def wire(method: str, path: str, query: str, raw: RawHeaders) -> Request:
    return Request(method, path, query, raw, dict(raw))


def claim(request: Request, now: datetime | None = None) -> Claim:
    return claim_of(request, (OTHER, KEY), b"function secret", now or datetime.now(UTC))


def refused(request: Request, body: bytes = b"{}", now: datetime | None = None) -> AwsError:
    with pytest.raises(AwsError) as error:
        claim(request, now).check_body(request, body)
    return error.value


@pytest.mark.parametrize("presign", [False, True])
@pytest.mark.parametrize(
    "path",
    [
        PATH,
        "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-west-1%3A123456789012%3Afunction%3Af%3A%24LATEST/invocations",
        "/2015-03-31/functions/arn:aws:lambda:eu-west-1:123456789012:function:f/invocations",
        "/2015-03-31/functions/a%20b%2Fc~d/invocations/",
        "/2015-03-31/functions/%E5%A4%A7/invocations",
        "/2015-03-31//functions/./a/../b",
        "/",
    ],
)
@pytest.mark.parametrize("query", ["", "Qualifier=%24LATEST", "tagKeys=b&tagKeys=a%26c&Marker=%E5%A4%A7~&empty="])
def test_signatures_of_botocore_are_accepted(path: str, query: str, presign: bool) -> None:
    request, body = signed(path, query=query, presign=presign, body=b"" if presign else b"{}")
    found = claim(request)
    assert found.identity.account == KEY.account
    assert found.identity.region == "eu-west-1"
    found.check_body(request, body)


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1), st.lists(st.tuples(st.text(min_size=1), st.text())), st.binary(max_size=100), st.booleans())
def test_any_name_query_and_body(name: str, pairs: list[tuple[str, str]], body: bytes, presign: bool) -> None:
    text = name.encode("utf-8", "replace").decode()
    query = "&".join(
        f"{quote(key.encode('utf-8', 'replace'), safe='-_.~')}={quote(value.encode('utf-8', 'replace'), safe='-_.~')}"
        for key, value in pairs
    )
    path = f"/2015-03-31/functions/{quote(text, safe='-_.~')}/invocations"
    # botocore moves the body of what it presigns into the query.
    request, body = signed(path, query=query, body=b"" if presign else body, presign=presign)
    claim(request).check_body(request, body)


def test_headers_with_spaces_and_unicode() -> None:
    headers = {"X-Amz-Client-Context": "  a   b ", "X-Amz-Invocation-Type": "Event", "Content-Type": "text/plain"}
    request, body = signed(headers=headers)
    claim(request).check_body(request, body)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"raw_path": PATH + "x"},
        {"query": "Qualifier=1"},
        {"raw_headers": "x-amz-invocation-type"},
        {"body": b"{} "},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_change_is_noticed(change: dict[str, Any]) -> None:
    request, body = signed(headers={"X-Amz-Invocation-Type": "Event"})
    parts = {name: getattr(request, name) for name in ("method", "raw_path", "query", "raw_headers")}
    body = change.get("body", body)
    parts.update((name, value) for name, value in change.items() if name in parts)
    if change.get("raw_headers"):
        changed = change["raw_headers"].encode()
        parts["raw_headers"] = [(name, b"DryRun" if name == changed else text) for name, text in request.raw_headers]
    other = Request(**parts, headers=dict(parts["raw_headers"]))
    error = refused(other, body)
    assert (error.code, error.status) == ("InvalidSignatureException", 403)
    assert error.message.startswith("The request signature we calculated does not match")


def test_an_unsigned_amz_header_is_refused() -> None:
    request, body = signed()
    raw = [*request.raw_headers, (b"x-amz-invocation-type", b"Event")]
    error = refused(wire(request.method, request.raw_path, request.query, raw), body)
    assert error.code == "InvalidSignatureException"
    assert "x-amz-invocation-type" in error.message


def test_host_must_be_signed() -> None:
    request, body = signed()
    raw = [
        (name, value.replace(b"host;", b"") if name == b"authorization" else value)
        for name, value in request.raw_headers
    ]
    assert "'host' must be" in refused(wire("POST", PATH, "", raw), body).message


def test_unsigned_payload_when_the_header_is_signed() -> None:
    request, _ = signed(headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    claim(request).check_body(request, b"anything")
    request, _ = signed(headers={"X-Amz-Content-SHA256": "0" * 64})
    assert refused(request).code == "InvalidSignatureException"


def test_a_request_without_a_signature_is_refused() -> None:
    error = refused(wire("POST", PATH, "", [(b"host", HOST.encode())]))
    assert (error.code, error.status) == ("MissingAuthenticationTokenException", 403)


def test_an_unknown_key_is_refused() -> None:
    request, body = signed(credential=Credential("AKIANOBODY", "x", "1" * 12))
    error = refused(request, body)
    assert (error.code, error.status) == ("UnrecognizedClientException", 403)
    assert error.message == "The security token included in the request is invalid."


def test_wrong_secret_and_wrong_service() -> None:
    request, body = signed(credential=Credential(KEY.key, "wrong", "1" * 12))
    assert refused(request, body).code == "InvalidSignatureException"
    request, body = signed(service="s3")
    assert "correct service: 'lambda'" in refused(request, body).message


@pytest.mark.parametrize(("minutes", "start"), [(16, "Signature expired"), (-16, "Signature not yet current")])
@pytest.mark.parametrize("presign", [False, True])
def test_a_signature_of_another_time_is_refused(minutes: int, start: str, presign: bool) -> None:
    request, body = signed(presign=presign, expires=600)
    error = refused(request, body, datetime.now(UTC) + timedelta(minutes=minutes))
    assert error.code == "InvalidSignatureException"
    assert error.message.startswith(start)


def test_small_skew_is_fine() -> None:
    request, body = signed()
    for minutes in (-14, 14):
        claim(request, datetime.now(UTC) + timedelta(minutes=minutes)).check_body(request, body)


def test_a_presigned_url_lives_as_long_as_it_says() -> None:
    request, _ = signed(presign=True, expires=3600, body=b"")
    claim(request, datetime.now(UTC) + timedelta(minutes=59)).check_body(request, b"")
    assert refused(request, b"", datetime.now(UTC) + timedelta(minutes=61)).message.startswith("Signature expired")


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic dTpw",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=x",
        "AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=host, Signature=x",
        "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20261123/r/lambda/aws4_request, SignedHeaders=;;, Signature=\xff",
        "AWS4-HMAC-SHA256 ,=,=,=",
    ],
)
@pytest.mark.parametrize("date", ["", "20261123T110000Z", "20261123Tnonsense", "Mon, 23 Nov 2026 11:00:00 GMT"])
def test_malformed_headers_are_refused_and_never_raise(authorization: str, date: str) -> None:
    raw = [
        (b"host", HOST.encode()),
        (b"authorization", authorization.encode("latin-1")),
        (b"x-amz-date" if date.endswith("Z") else b"date", date.encode()),
    ]
    assert refused(wire("POST", PATH, "", raw)).status in {400, 403}


@given(st.text(), st.text())
def test_fuzzed_signatures_are_only_ever_refused(authorization: str, query: str) -> None:
    text = authorization.encode("utf-8", "replace")
    for header, given_query in ((b"AWS4-HMAC-SHA256 " + text, ""), (b"", f"X-Amz-Signature={query}")):
        raw = [(b"host", HOST.encode()), (b"authorization", header), (b"x-amz-date", b"20261123T110000Z")]
        assert refused(wire("POST", PATH, given_query, raw)).status in {400, 403}


def test_without_credentials_the_key_names_the_account() -> None:
    def identity(credential: str) -> tuple[str, str]:
        header = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=x".encode()
        found = claim_of(wire("POST", PATH, "", [(b"authorization", header)]), (), b"", datetime.now(UTC)).identity
        return found.account, found.region

    assert identity("111122223333/20261123/ap-south-1/lambda/aws4_request") == ("111122223333", "ap-south-1")
    assert identity("test/20261123/ap-south-1/lambda/aws4_request") == ("000000000000", "ap-south-1")
    assert identity("nonsense") == ("000000000000", "us-east-1")
    assert identity("111122223333/20261123/..%2F/lambda/aws4_request") == ("111122223333", "us-east-1")
    nobody = claim_of(wire("GET", "/", "", []), (), b"", datetime.now(UTC)).identity
    assert (nobody.account, nobody.region) == ("000000000000", "us-east-1")
    query = "X-Amz-Credential=111122223333%2F20261123%2Feu-west-1%2Flambda%2Faws4_request"
    assert claim_of(wire("GET", "/", query, []), (), b"", datetime.now(UTC)).identity.region == "eu-west-1"


def by_function(path: str, token: str, secret: bytes = b"function secret") -> Claim:
    raw = [(b"x-everwarm-function", b"123456789012:eu-west-1:caller"), (b"x-everwarm-token", token.encode())]
    return claim_of(wire("POST", path, "", raw), (KEY,), secret, datetime.now(UTC))


def test_a_functions_token_tells_who_calls() -> None:
    token = function_token(b"function secret", "POST", PATH, "123456789012:eu-west-1:caller")
    identity = by_function(PATH, token).identity
    assert (identity.account, identity.region, identity.function) == ("123456789012", "eu-west-1", "caller")
    check_function_api(identity, "Invoke", "invoke")
    check_function_api(identity, "CreateFunction", "all")
    for operation, policy in (("CreateFunction", "invoke"), ("Invoke", "none")):
        with pytest.raises(AwsError) as error:
            check_function_api(identity, operation, policy)  # type: ignore[arg-type]
        assert error.value.code == "AccessDeniedException"


@pytest.mark.parametrize(("path", "secret"), [(PATH + "x", b"function secret"), (PATH, b"other"), (PATH, b"")])
def test_wrong_tokens_of_functions(path: str, secret: bytes) -> None:
    token = function_token(b"function secret", "POST", PATH, "123456789012:eu-west-1:caller")
    with pytest.raises(AwsError) as error:
        by_function(path, token, secret)
    assert error.value.code == "AccessDeniedException"


def test_the_empty_secret_opens_nothing() -> None:
    with pytest.raises(AwsError):
        by_function(PATH, function_token(b"", "POST", PATH, "123456789012:eu-west-1:caller"), b"")
