"""Who may talk to the server: names, web pages, addresses, signatures; on the real processes."""

import http.client
import json
import socket
from collections.abc import Callable, Iterator

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from mypy_boto3_lambda import LambdaClient

from tests.services.commands import everwarm
from tests.services.functions import Functions
from tests.services.processes import free_port
from tests.services.stack import Stack

KEY, SECRET, ACCOUNT = "AKIDEVERWARM", "the-secret-of-the-test", "123456789012"


def ask(stack: Stack, method: str, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=10)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, b"{}" if method == "POST" else None, named)
        answer = connection.getresponse()
        return (
            answer.status,
            answer.read().decode("latin-1"),
            {name.lower(): value for name, value in answer.getheaders()},
        )
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/2015-03-31/functions/", "/_everwarm/environments", "/_everwarm/logs/any"])
def test_only_its_own_names(stack: Stack, path: str) -> None:
    for host in ("localhost", f"127.0.0.1:{stack.port}", "lambda.localhost", "[::1]"):
        assert ask(stack, "GET", path, Host=host)[0] in {200, 404}, host
    for host in ("evil.example", "127.0.0.1.evil.example", "169.254.169.254", "localhost.evil.example", ""):
        status, body, _ = ask(stack, "GET", path, Host=host)
        assert status in {400, 403}, (host, body)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:4566"])
def test_no_web_page_may_call(stack: Stack, origin: str) -> None:
    name = Functions(stack).sample("echo")
    for method, path in (
        ("POST", f"/2015-03-31/functions/{name}/invocations"),
        ("GET", "/2015-03-31/functions/"),
        ("GET", "/_everwarm/environments"),
        ("OPTIONS", "/2015-03-31/functions/"),
    ):
        status, body, headers = ask(stack, method, path, Origin=origin)
        assert status in {403, 404}, (method, path, body)
        assert "access-control-allow-origin" not in headers
        assert status == 403 or method == "OPTIONS"


def test_live_and_ready_say_nothing_more(stack: Stack) -> None:
    assert json.loads(stack.get("/_everwarm/live")[1]) == {"status": "ok"}
    assert json.loads(stack.get("/_everwarm/ready")[1]) == {"status": "ok"}


def test_loopback_only_by_default(stack: Stack) -> None:
    """Nothing listens on the machine's other addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            address = probe.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    if address.startswith("127."):
        return
    with socket.socket() as client:
        client.settimeout(5)
        assert client.connect_ex((address, stack.port)) != 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
@pytest.mark.parametrize("command", ["dispatcher", "up"])
def test_off_loopback_only_with_credentials(command: str, host: str, stack: Stack) -> None:
    done = everwarm(
        command, "--host", host, "--port", str(free_port()),
        environ={"EVERWARM_REDIS_URL": stack.redis.url, "EVERWARM_DATA": str(stack.data / "other")},
    )  # fmt: skip
    assert done.status == 2, done
    assert "EVERWARM_CREDENTIALS" in done.err
    assert "--insecure" in done.err
    assert f"EVERWARM_HOST={host}" in done.err
    assert "Traceback" not in done.err
    assert stack.redis.url.split("@")[0].split(":")[-1] not in done.err


def test_an_insecure_server_listens_everywhere_and_says_so(make_stack: Callable[..., Stack]) -> None:
    """Told to, it listens everywhere, and warns."""
    stack = make_stack(EVERWARM_HOST="0.0.0.0", EVERWARM_INSECURE="1")
    assert stack.client().list_functions()["Functions"] == []
    # A name that is rebound to this machine is none of its names, also then.
    assert ask(stack, "GET", "/2015-03-31/functions/", Host="evil.example")[0] == 403


def signed_client(stack: Stack, key: str = KEY, secret: str = SECRET) -> LambdaClient:
    """boto3 with that key."""
    return boto3.client(
        "lambda",
        endpoint_url=stack.endpoint,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=30),
    )


def signed_page(stack: Stack, path: str) -> tuple[int, bytes]:
    """A page asked for with the key's signature."""
    request = AWSRequest("GET", stack.endpoint + path)
    SigV4Auth(Credentials(KEY, SECRET), "lambda", "us-east-1").add_auth(request)
    status, body, _ = ask(stack, "GET", path, **dict(request.headers.items()))
    return status, body.encode()


class SignedStack(Stack):
    """A stack that verifies signatures, of its pages too."""

    def __init__(self) -> None:
        super().__init__(
            {"EVERWARM_CREDENTIALS": f"{KEY}:{SECRET}:{ACCOUNT}", "EVERWARM_METRICS_TOKEN": "metrics-token"}
        )

    def get(self, path: str) -> tuple[int, bytes]:
        """As the base class, signed."""
        try:
            return signed_page(self, path)
        except OSError:
            return 0, b""


@pytest.fixture(scope="module")
def signed() -> Iterator[SignedStack]:
    """One for this module."""
    stack = SignedStack()
    try:
        stack.start()
        yield stack
    finally:
        stack.close()


def refusal(client: LambdaClient) -> tuple[str, int]:
    """Error code and status of a call that must be refused."""
    with pytest.raises(ClientError) as caught:
        client.list_functions()
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_signatures_are_verified_where_there_are_credentials(signed: SignedStack) -> None:
    assert signed_client(signed).list_functions()["Functions"] == []
    assert refusal(signed_client(signed, secret="other")) == ("InvalidSignatureException", 403)
    assert refusal(signed_client(signed, key="AKIDOTHER"))[1] == 403
    assert refusal(signed_client(signed, key=ACCOUNT, secret="test"))[1] == 403
    status, body, headers = ask(signed, "GET", "/2015-03-31/functions/")
    assert (status, headers["x-amzn-errortype"]) == (403, "MissingAuthenticationTokenException")
    assert SECRET not in body


def test_everything_works_with_signatures(signed: SignedStack) -> None:
    """Workers fetch code, functions call others, in the key's account."""
    functions = Functions(signed, client=signed_client(signed))
    other = functions.sample("echo")
    assert functions.invoke(other, {"a": 1}).json == {"a": 1}
    name = functions.sample("invokes")
    found = functions.invoke(name, {"function": other, "payload": "through the relay"}).json
    assert found == {"status": 200, "body": "through the relay"}
    # Whatever credentials a function puts on its calls, they are made in its own name.
    fake = {"Authorization": "AWS4-HMAC-SHA256 Credential=X/20260101/us-east-1/lambda/aws4_request, "
                             "SignedHeaders=host, Signature=00"}  # fmt: skip
    found = functions.invoke(name, {"function": other, "payload": 5, "headers": fake}).json
    assert found == {"status": 200, "body": 5}
    arn = functions.client.get_function_configuration(FunctionName=name)["FunctionArn"]
    assert arn == f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:{name}"
    location = functions.client.get_function(FunctionName=name)["Code"]["Location"]
    assert ask(signed, "GET", location.removeprefix(signed.endpoint))[0] == 200


def test_pages_need_a_signature_too(signed: SignedStack) -> None:
    for path in ("/_everwarm/environments", "/_everwarm/health", "/_everwarm/logs/any"):
        assert ask(signed, "GET", path)[0] == 403, path
        assert signed_page(signed, path)[0] in {200, 404}, path
    for path in ("/_everwarm/live", "/_everwarm/ready"):
        assert ask(signed, "GET", path)[:2] == (200, '{"status":"ok"}')
    assert ask(signed, "GET", "/_everwarm/metrics")[0] == 403
    assert ask(signed, "GET", "/_everwarm/metrics", Authorization="Bearer wrong")[0] == 403
    assert ask(signed, "GET", "/_everwarm/metrics", Authorization="Bearer metrics-token")[0] == 200


def test_a_changed_request_is_refused(signed: SignedStack) -> None:
    name = Functions(signed, client=signed_client(signed)).sample("echo")
    path = f"/2015-03-31/functions/{name}/invocations"
    request = AWSRequest("POST", signed.endpoint + path, data=b"{}")
    SigV4Auth(Credentials(KEY, SECRET), "lambda", "us-east-1").add_auth(request)
    headers = dict(request.headers.items())
    assert ask(signed, "POST", path, **headers)[0] == 200
    assert ask(signed, "POST", path + "?Qualifier=1", **headers)[0] == 403
    assert ask(signed, "DELETE", f"/2015-03-31/functions/{name}", **headers)[0] == 403
    assert ask(signed, "POST", path, **{**headers, "X-Amz-Date": "20200101T000000Z"})[0] == 403


def test_secrets_of_the_settings_are_not_shown(signed: SignedStack) -> None:
    done = everwarm("doctor", "--json", environ=signed.environ)
    assert SECRET not in done.out + done.err
    assert "metrics-token" not in done.out + done.err
    assert SECRET not in signed.log_text()
    assert (signed.redis.url.split("@")[0]).split(":")[-1] not in done.out + done.err + signed.log_text()
