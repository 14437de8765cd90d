"""Two credentials of two accounts on one server: neither reaches the other's events and functions."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.services.commands import Done, everwarm
from tests.services.events import THROUGH_GATE, Gate, event_of, send, wait_until_ended
from tests.services.functions import Functions
from tests.services.stack import Stack
from tests.services.waiting import wait_until

PAGE = "/_everwarm/invocations"
WORK = THROUGH_GATE + "def handler(event, context):\n    through_gate(event, context)\n"


class User(NamedTuple):
    """A credential, and what its owner does."""

    key: str
    secret: str
    account: str


ANN = User("AKIDANN", "secret-of-ann", "111111111111")
BOB = User("AKIDBOB", "secret-of-bob", "222222222222")


class SharedStack(Stack):
    """Of both accounts; its pages are asked for as Ann."""

    def __init__(self) -> None:
        super().__init__({"EVERWARM_CREDENTIALS": ",".join(":".join(user) for user in (ANN, BOB))})

    def get(self, path: str, user: User = ANN) -> tuple[int, bytes]:
        """As the base class, signed."""
        request = AWSRequest("GET", self.endpoint + path)
        SigV4Auth(Credentials(user.key, user.secret), "lambda", "us-east-1").add_auth(request)
        return self._ask(_plain(request))

    def functions(self, user: User) -> Functions:
        """The user's."""
        client = boto3.client(
            "lambda",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=user.key,
            aws_secret_access_key=user.secret,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=30),
        )
        return Functions(self, client=client)

    def page(self, user: User, path: str, document: object = None) -> tuple[int, Any]:
        """Status and document of a page below ``/_everwarm/invocations``; posted when there is a document."""
        body = None if document is None else json.dumps(document).encode()
        request = AWSRequest("GET" if body is None else "POST", self.endpoint + PAGE + path, data=body)
        SigV4Auth(Credentials(user.key, user.secret), "lambda", "us-east-1").add_auth(request)
        status, answer = self._ask(_plain(request))
        return status, json.loads(answer)

    def command(self, user: User, *arguments: str) -> Done:
        """``everwarm invocations`` as the user."""
        environ = {
            "EVERWARM_ENDPOINT": self.endpoint, "AWS_ACCESS_KEY_ID": user.key, "AWS_SECRET_ACCESS_KEY": user.secret,
        }  # fmt: skip
        return everwarm("invocations", *arguments, environ=environ)


def _plain(request: AWSRequest) -> urllib.request.Request:
    return urllib.request.Request(str(request.url), request.data, dict(request.headers.items()), method=request.method)


@pytest.fixture(scope="module")
def shared() -> Iterator[SharedStack]:
    stack = SharedStack()
    try:
        stack.start()
        yield stack
    finally:
        stack.close()


def ids(answer: tuple[int, Any]) -> list[str]:
    status, document = answer
    assert status == 200, document
    return [one["request_id"] for one in document["invocations"]]


def test_events_are_seen_and_cancelled_by_their_account_only(shared: SharedStack, gate: Gate) -> None:
    # The same name, so that only the account tells them apart.
    mine, theirs = shared.functions(ANN), shared.functions(BOB)
    name = mine.python(WORK, FunctionName="same", Timeout=300)
    theirs.python(WORK, FunctionName="same", Timeout=300)
    ann = send(mine, name, {"gate": gate.url, "name": "ann"})
    bob = send(theirs, name, {"gate": gate.url, "name": "bob"})
    wait_until("both run", lambda: gate.ids("ann") and gate.ids("bob"))

    for query in ("", "?function=same", f"?account={ANN.account}", "?state=fed", "?region=us-east-1", "?lane=event"):
        assert ids(shared.page(ANN, query)) == [ann], query
    assert ids(shared.page(BOB, "?function=same")) == [bob]
    assert shared.page(ANN, f"/{ann}")[1]["account"] == ANN.account

    denied = {"message": f"account: these credentials are of {ANN.account}, and see no other account"}
    missing = {"message": f"no event has the request id {bob}"}
    assert shared.page(ANN, f"?account={BOB.account}") == (403, denied)
    assert shared.page(ANN, f"/{bob}?account={BOB.account}") == (403, denied)
    assert shared.page(ANN, "/cancel", {"account": BOB.account, "all": True}) == (403, denied)
    assert shared.page(ANN, f"/{bob}") == (404, missing)
    assert shared.page(ANN, f"/{bob}/cancel", {}) == (404, missing)
    assert shared.page(ANN, "/nobody/cancel", {})[0] == 404

    # The command signs, and needs no account.
    assert json.loads(shared.command(ANN, "list", "--json").out)["invocations"][0]["request_id"] == ann
    done = shared.command(ANN, "cancel", bob)
    assert (done.status, done.out) == (2, "")
    assert json.loads(shared.command(ANN, "cancel", "--all", "--json").out)["request_ids"] == [ann]
    assert event_of(shared, ann).state == "cancelled"
    assert event_of(shared, bob).state == "fed"
    assert shared.command(BOB, "cancel", bob).out == f"cancelled {bob}\n"
    assert wait_until_ended(shared, bob).state == "cancelled"


def test_no_destination_reaches_another_accounts_function(shared: SharedStack) -> None:
    mine, theirs = shared.functions(ANN), shared.functions(BOB)
    name = mine.python("def handler(event, context): pass")
    victim = theirs.python("def handler(event, context): pass")
    arn = theirs.client.get_function_configuration(FunctionName=victim)["FunctionArn"]
    assert f":{BOB.account}:" in arn

    def refused(call: Callable[..., Any], **members: Any) -> str:
        with pytest.raises(ClientError) as caught:
            call(FunctionName=name, **members)
        assert caught.value.response["Error"]["Code"] == "InvalidParameterValueException"
        return caught.value.response["Error"]["Message"]

    mine.client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    for call in (mine.client.put_function_event_invoke_config, mine.client.update_function_event_invoke_config):
        for part in ("OnSuccess", "OnFailure"):
            message = refused(call, DestinationConfig={part: {"Destination": arn}})
            assert message == f"The destination ARN {arn} is invalid."
    assert wait_until_ended(shared, send(mine, name, {})).state == "succeeded"
    assert ids(shared.page(BOB, f"?function={victim}")) == []


def test_environments_and_logs_are_seen_by_their_account_only(shared: SharedStack) -> None:
    name = shared.functions(BOB).python("def handler(event, context): print('of bob')")
    shared.functions(BOB).invoke(name, {})

    def environments(user: User) -> list[str]:
        status, text = shared.get("/_everwarm/environments", user)
        assert status == 200
        return [row["function"] for row in json.loads(text)["environments"]]

    assert name in wait_until("it is there", lambda: environments(BOB))
    assert name not in environments(ANN)
    log = f"/_everwarm/logs/{name}"
    wait_until("its log is there", lambda: b"of bob" in shared.get(log, BOB)[1])
    assert shared.get(f"{log}?account={BOB.account}", BOB)[0] == 200
    assert shared.get(f"{log}?account={BOB.account}", ANN)[0] == 403
    assert shared.get(log, ANN) == (404, b'{"message":"this function has written nothing yet"}')
