"""Functions that call this server's Lambda API through their own environment, without boto3 and without credentials."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.services.calls import wait_until_handed_back
from tests.services.functions import Functions
from tests.services.stack import Stack

RAW = """
import http.client, os
def handler(event, context):
    host = os.environ.get("AWS_ENDPOINT_URL_LAMBDA", "http://").removeprefix("http://")
    if not host:
        return "no endpoint"
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request(event.get("method", "GET"), event["path"], event.get("body"), event.get("headers", {}))
    answer = connection.getresponse()
    return {"status": answer.status, "headers": dict(answer.getheaders()), "body": answer.read().decode()}
"""


@pytest.fixture
def functions(stack: Stack) -> Functions:
    """Functions on the shared stack."""
    return Functions(stack)


def ask(functions: Functions, name: str, method: str, path: str, **event: Any) -> dict[str, Any]:
    """What the function gets for that request."""
    answer = functions.invoke(name, {"method": method, "path": path, **event})
    assert answer.error is None, answer.body
    found: dict[str, Any] = answer.json
    return found


def test_a_function_invokes_another(functions: Functions) -> None:
    other = functions.sample("context")
    name = functions.python(RAW)
    found = ask(functions, name, "POST", f"/2015-03-31/functions/{other}/invocations", body="{}")
    assert found["status"] == 200
    context = json.loads(found["body"])
    headers = {key.lower(): value for key, value in found["headers"].items()}
    assert context["aws_request_id"] == headers["x-amzn-requestid"]
    assert headers["x-amz-executed-version"] == "$LATEST"
    assert context["invoked_function_arn"] == functions.arn(other)


def test_errors_of_the_other_come_through(functions: Functions) -> None:
    other = functions.sample("raises")
    name = functions.python(RAW)
    found = ask(functions, name, "POST", f"/2015-03-31/functions/{other}/invocations", body='{"message": "inner"}')
    assert found["status"] == 200
    assert json.loads(found["body"])["errorMessage"] == "inner"
    assert {key.lower(): value for key, value in found["headers"].items()}["x-amz-function-error"] == "Unhandled"
    missing = ask(functions, name, "POST", "/2015-03-31/functions/nobody/invocations", body="{}")
    assert missing["status"] == 404


def test_large_payloads_through_the_relay(functions: Functions) -> None:
    other = functions.sample("echo", MemorySize=512)
    name = functions.python(RAW, MemorySize=512)
    body = json.dumps("x" * 2_000_000)
    found = ask(functions, name, "POST", f"/2015-03-31/functions/{other}/invocations", body=body)
    assert (found["status"], found["body"] == body) == (200, True)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/2015-03-31/functions/"),
        ("GET", "/2015-03-31/functions/{own}"),
        ("GET", "/2015-03-31/functions/{own}/configuration"),
        ("POST", "/2015-03-31/functions"),
        ("PUT", "/2015-03-31/functions/{own}/code"),
        ("DELETE", "/2015-03-31/functions/{own}"),
        ("PUT", "/2017-10-31/functions/{own}/concurrency"),
        ("GET", "/2016-08-19/account-settings/"),
    ],
)
def test_all_but_invoking_is_refused(functions: Functions, method: str, path: str) -> None:
    name = functions.python(RAW)
    found = ask(functions, name, method, path.format(own=name), body="{}" if method != "GET" else None)
    assert found["status"] == 403
    assert "x-amzn-errortype: AccessDeniedException" in {f"{k.lower()}: {v}" for k, v in found["headers"].items()}
    assert "Functions may not call" in found["body"]
    assert functions.invoke(name, {"path": "/2018-06-01/nothing"}).error is None


@pytest.mark.parametrize(
    "path",
    [
        "/_everwarm/environments",
        "/_everwarm/health",
        "/_everwarm/metrics",
        "/_everwarm/logs/any",
        "//_everwarm/environments",
        "/./_everwarm/environments",
        "/2015-03-31/../_everwarm/environments",
        "/%5Feverwarm/environments",
        "/_everwarm%2Fenvironments",
        "/_EVERWARM/environments",
        "/_everwarm",
        "http://127.0.0.1/_everwarm/environments",
        "http://127.0.0.1//_everwarm/environments",
        "/_everwarm/environments?x=/2015-03-31/functions/",
    ],
)
def test_the_servers_own_pages_are_out_of_reach(functions: Functions, path: str) -> None:
    found = ask(functions, functions.python(RAW), "GET", path)
    assert found["status"] in {400, 403, 404}, found
    assert set(json.loads(found["body"])) <= {"Type", "Message", "message"}, found


@pytest.mark.parametrize(
    "headers",
    [
        {"x-everwarm-function": "111111111111:us-east-1:other"},
        {"X-Everwarm-Function": "a:b:c", "X-Everwarm-Token": "0" * 64},
        {"Authorization": "AWS4-HMAC-SHA256 Credential=111111111111/20260101/eu-west-1/lambda/aws4_request, "
                          "SignedHeaders=host, Signature=0"},
    ],
)  # fmt: skip
def test_the_environment_is_the_identity(functions: Functions, headers: dict[str, str]) -> None:
    """Whoever a function says it is, it calls in its own name: its account's function of that name is found."""
    other = functions.sample("echo")
    name = functions.python(RAW)
    path = f"/2015-03-31/functions/{other}/invocations"
    found = ask(functions, name, "POST", path, body="1", headers=headers)
    assert (found["status"], found["body"]) == (200, "1")


def test_another_accounts_functions_are_not_found(functions: Functions) -> None:
    theirs = Functions(functions.stack, client=functions.stack.client("111111111111"))
    other = theirs.sample("echo")
    found = ask(functions, functions.python(RAW), "POST", f"/2015-03-31/functions/{other}/invocations", body="1")
    assert found["status"] == 404


@pytest.mark.parametrize(("policy", "status"), [("all", 200), ("none", 403)])
def test_the_policy_can_be_set(make_stack: Callable[..., Stack], policy: str, status: int) -> None:
    functions = Functions(make_stack(EVERWARM_FUNCTION_API=policy))
    name = functions.python(RAW)
    if policy == "none":
        # Nothing is served, not even the way to it.
        assert functions.invoke(name, {"path": "/2015-03-31/functions/"}).json == "no endpoint" or (
            ask(functions, name, "GET", "/2015-03-31/functions/")["status"] in {403, 404}
        )
        return
    assert ask(functions, name, "GET", "/2015-03-31/functions/")["status"] == status
    assert ask(functions, name, "GET", "/_everwarm/environments")["status"] == 403


def test_calls_after_the_answer_do_no_harm(functions: Functions) -> None:
    """A call that is under way when its caller has answered."""
    other = functions.sample("sleeps")
    name = functions.python("""
import os, threading, urllib.request
def handler(event, context):
    url = os.environ["AWS_ENDPOINT_URL_LAMBDA"] + "/2015-03-31/functions/" + event + "/invocations"
    threading.Thread(target=lambda: urllib.request.urlopen(url, b'{"seconds": 0.5}').read(), daemon=True).start()
    return os.getpid()
""")
    first = functions.invoke(name, other)
    wait_until_handed_back(functions, name)
    assert functions.invoke(name, other).json == first.json


def test_functions_calls_go_on_after_another_dispatcher_comes(make_stack: Callable[..., Stack]) -> None:
    """Its database is new, and so its secrets; the worker and Redis are those from before."""
    stack = make_stack()
    functions = Functions(stack)
    other, name = functions.sample("echo"), functions.python(RAW)
    path = f"/2015-03-31/functions/{other}/invocations"
    assert ask(functions, name, "POST", path, body="1")["status"] == 200
    stack.stop("dispatcher")
    for file in stack.data.glob("everwarm.db*"):
        file.unlink()
    stack.start_part("dispatcher")
    stack.wait_until_ready()
    functions.sample("echo", FunctionName=other)
    name = functions.python(RAW)
    assert ask(functions, name, "POST", path, body="1")["status"] == 200


def test_a_path_in_another_spelling_is_the_same_path(functions: Functions) -> None:
    other = functions.sample("echo")
    path = f"/2015-03-31/functions/000000000000%3afunction%3a{other}/invocations"
    found = ask(functions, functions.python(RAW), "POST", path, body="1")
    assert (found["status"], found["body"]) == (200, "1")


def test_what_can_not_be_forwarded_is_answered_at_once(functions: Functions) -> None:
    header = {"x-any": "\u65e5".encode().decode("latin-1")}
    found = ask(functions, functions.python(RAW), "GET", "/2015-03-31/functions/", headers=header)
    assert found["status"] in {400, 403, 502}
