"""What follows the end of an event, end to end: a server that speaks SQS, SNS, EventBridge and S3 at the other end."""

import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.services.aws import AwsServices
from tests.services.events import THROUGH_GATE, Event, Gate, event_of, events_of, send, wait_until_ended
from tests.services.functions import Functions
from tests.services.metrics import samples_in
from tests.services.processes import free_port
from tests.services.stack import Stack
from tests.services.waiting import wait_until

#: A minute is a fifth of a second.
FAST = {"EVERWARM_TIME_SCALE": "300"}
SOMETIMES = """
def handler(event, context):
    if event.get("fail"):
        raise ValueError(event["fail"])
    return {"got": event}
"""
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def functions(shared_stack: Callable[..., Stack], aws_services: AwsServices) -> Functions:
    """Functions on a stack with all services and a fast clock, which tests share."""
    return Functions(shared_stack("destinations", **FAST, **aws_services.environ()))


def configure(functions: Functions, name: str, success: str = "", failure: str = "", **members: Any) -> None:
    """PutFunctionEventInvokeConfig with these destinations."""
    found = {"OnSuccess": success, "OnFailure": failure}
    config: Any = {kind: {"Destination": arn} for kind, arn in found.items() if arn}
    functions.client.put_function_event_invoke_config(FunctionName=name, DestinationConfig=config, **members)


def one_message(aws: AwsServices, queue: str) -> dict[str, Any]:
    """The one message that comes to the queue."""
    found = wait_until("a message is there", lambda: aws.messages(queue), every_s=0.1)
    assert len(found) == 1, found
    return found[0]


def record_in(message: dict[str, Any]) -> dict[str, Any]:
    """A record without its timestamp, which must be one."""
    found: dict[str, Any] = json.loads(message["Body"])
    assert TIMESTAMP.fullmatch(found.pop("timestamp"))
    return found


def record(
    functions: Functions, name: str, request_id: str, condition: str, count: int, request: Any
) -> dict[str, Any]:
    """What every record of the function begins with."""
    return {
        "version": "1.0",
        "requestContext": {
            "requestId": request_id,
            "functionArn": functions.arn(name, "$LATEST"),
            "condition": condition,
            "approximateInvokeCount": count,
        },
        "requestPayload": request,
    }


def responded(payload: Any, error: str = "") -> dict[str, Any]:
    """What a record has of the function's last answer."""
    context = {"statusCode": 200, "executedVersion": "$LATEST", **({"functionError": error} if error else {})}
    return {"responseContext": context, "responsePayload": payload}


def delivered(stack: Stack, request_id: str, count: int = 1) -> Event:
    """The event, once all its deliveries have arrived."""

    def found() -> Event | None:
        event = event_of(stack, request_id)
        arrived = [delivery for delivery in event.deliveries if delivery["state"] == "delivered"]
        return event if len(arrived) == count else None

    event = wait_until("it is delivered", found)
    assert event is not None
    return event


def given_up(stack: Stack, request_id: str) -> Event:
    """The event, once a delivery of it has failed for good."""

    def found() -> Event | None:
        event = event_of(stack, request_id)
        return event if "Delivery" in event.error_type else None

    event = wait_until("it is given up", found)
    assert event is not None
    return event


# --- the four conditions, to SQS ---


def test_a_success_goes_to_its_destination(functions: Functions, aws_services: AwsServices) -> None:
    queue, other = aws_services.queue(), aws_services.queue()
    name = functions.python(SOMETIMES)
    configure(functions, name, success=queue, failure=other)
    request_id = send(functions, name, {"a": 1})
    message = one_message(aws_services, queue)
    assert record_in(message) == {
        **record(functions, name, request_id, "Success", 1, {"a": 1}), **responded({"got": {"a": 1}}),
    }  # fmt: skip
    event = delivered(functions.stack, request_id)
    assert (event.state, event.deliveries[0]["tries"], event.deliveries[0]["error"]) == ("succeeded", 1, "")
    assert aws_services.messages(other) == []
    labels = {"function": name, "lane": "event", "kind": "destination", "what": "delivered"}

    def delivered_once() -> bool:
        found = samples_in(functions.stack.get("/_everwarm/metrics")[1])
        return any(labels.items() <= sample.items() and value == 1 for _, sample, value in found)

    wait_until("the metric tells", delivered_once)


def test_retries_exhausted_with_a_dead_letter_queue_too(functions: Functions, aws_services: AwsServices) -> None:
    destination, dead = aws_services.queue(), aws_services.queue()
    name = functions.python(SOMETIMES, DeadLetterConfig={"TargetArn": dead})
    configure(functions, name, failure=destination)
    event = {"fail": "höchst “unusual”"}
    request_id = send(functions, name, event)
    found = record_in(one_message(aws_services, destination))
    answer = found.pop("responsePayload")
    assert found == {
        **record(functions, name, request_id, "RetriesExhausted", 3, event),
        "responseContext": responded(None, "Unhandled")["responseContext"],
    }
    assert (answer["errorType"], answer["errorMessage"], answer["requestId"]) == (
        "ValueError",
        event["fail"],
        request_id,
    )
    letter = one_message(aws_services, dead)
    assert json.loads(letter["Body"]) == event
    attributes = {name: (one["DataType"], one["StringValue"]) for name, one in letter["MessageAttributes"].items()}
    assert attributes == {
        "RequestID": ("String", request_id), "ErrorCode": ("Number", "200"), "ErrorMessage": ("String", event["fail"]),
    }  # fmt: skip
    assert delivered(functions.stack, request_id, 2).state == "failed"


def test_an_event_that_grew_too_old_goes_to_its_destinations(
    functions: Functions, aws_services: AwsServices, gate: Gate
) -> None:
    queue, dead = aws_services.queue(), aws_services.queue()
    source = THROUGH_GATE + SOMETIMES.replace("context):", "context):\n    through_gate(event, context)")
    name = functions.python(source, DeadLetterConfig={"TargetArn": dead})
    event = {"fail": "once", "gate": gate.url}
    request_id = send(functions, name, event)
    # It is too old when its first try ends.
    wait_until("it runs", lambda: gate.inside[""] == 1)
    configure(functions, name, failure=queue, MaximumEventAgeInSeconds=60)
    gate.open()
    found = record_in(one_message(aws_services, queue))
    assert found.pop("responsePayload")["errorMessage"] == "once"
    assert found == {
        **record(functions, name, request_id, "EventAgeExceeded", 1, event),
        "responseContext": responded(None, "Unhandled")["responseContext"],
    }
    assert one_message(aws_services, dead)["MessageAttributes"]["RequestID"]["StringValue"] == request_id


def test_no_concurrency_at_all(functions: Functions, aws_services: AwsServices) -> None:
    queue = aws_services.queue()
    name = functions.python(SOMETIMES)
    configure(functions, name, failure=queue)
    functions.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    request_id = send(functions, name, {"a": 1})
    expected = record(functions, name, request_id, "ZeroReservedConcurrency", 0, {"a": 1})
    assert record_in(one_message(aws_services, queue)) == expected


# --- the other services ---


def test_records_and_dead_letters_go_to_topics(functions: Functions, aws_services: AwsServices) -> None:
    good, queue_of_good = aws_services.topic()
    dead, queue_of_dead = aws_services.topic()
    name = functions.python(SOMETIMES, DeadLetterConfig={"TargetArn": dead})
    configure(functions, name, success=good, MaximumRetryAttempts=0)
    request_id = send(functions, name, {"a": 1})
    assert record_in(one_message(aws_services, queue_of_good))["requestContext"]["requestId"] == request_id
    request_id = send(functions, name, {"fail": "no"})
    letter = one_message(aws_services, queue_of_dead)
    assert json.loads(letter["Body"]) == {"fail": "no"}
    assert letter["MessageAttributes"]["RequestID"]["StringValue"] == request_id
    # A record that is too large for a topic comes without the payloads.
    request_id = send(functions, name, {"large": "x" * 300_000})
    found = record_in(one_message(aws_services, queue_of_good))
    assert (found["requestContext"]["requestId"], "requestPayload" in found) == (request_id, False)


def test_records_go_to_event_buses(functions: Functions, aws_services: AwsServices) -> None:
    bus, queue = aws_services.bus()
    name = functions.python(SOMETIMES)
    configure(functions, name, success=bus, failure=bus, MaximumRetryAttempts=0)
    for event, word in (({"a": 1}, "Success"), ({"fail": "no"}, "Failure")):
        request_id = send(functions, name, event)
        found = json.loads(one_message(aws_services, queue)["Body"])
        assert (found["source"], found["detail-type"]) == ("lambda", f"Lambda Function Invocation Result - {word}")
        assert found["resources"] == [bus, functions.arn(name, "$LATEST")]
        assert found["detail"]["requestContext"]["requestId"] == request_id
        assert found["detail"]["requestPayload"] == event


def test_a_bucket_gets_failures(functions: Functions, aws_services: AwsServices) -> None:
    bucket = aws_services.bucket()
    name = functions.python(SOMETIMES)
    configure(functions, name, failure=f"arn:aws:s3:::{bucket}", MaximumRetryAttempts=0)
    request_id = send(functions, name, {"fail": "no"})
    delivered(functions.stack, request_id)
    (found,) = aws_services.s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert re.fullmatch(rf"aws/lambda/async/{name}/\d{{4}}/\d\d/\d\d/[0-9T.-]+-[0-9a-f-]{{36}}", found["Key"])
    body = json.loads(aws_services.s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read())
    assert (body["requestContext"]["requestId"], body["requestPayload"]) == (request_id, {"fail": "no"})


def test_another_function_gets_the_record(functions: Functions, aws_services: AwsServices) -> None:
    last = functions.python(SOMETIMES)
    queue = aws_services.queue()
    configure(functions, last, success=queue)
    name = functions.python(SOMETIMES)
    configure(functions, name, success=functions.arn(last), failure=functions.arn(last), MaximumRetryAttempts=0)
    for event, condition in (({"a": 1}, "Success"), ({"fail": "no"}, "RetriesExhausted")):
        request_id = send(functions, name, event)
        wait_until_ended(functions.stack, request_id)
        (other,) = events_of(functions.stack, "parent = ?", request_id)
        assert (other.origin, other.request_id != request_id) == (f"destination:{name}", True)
        # It goes on from there, by its own configuration.
        found = record_in(one_message(aws_services, queue))
        assert found["requestContext"]["requestId"] == other.request_id
        inner = found["requestPayload"]["requestContext"]
        assert (inner["requestId"], inner["condition"]) == (request_id, condition)


def test_functions_that_are_each_others_destination_are_stopped(functions: Functions) -> None:
    # An answer with the event in it would make each record twice as large as the one before.
    first, second = (functions.python("def handler(event, context): ...") for _ in range(2))
    configure(functions, first, success=functions.arn(second))
    configure(functions, second, success=functions.arn(first))
    send(functions, first, {})
    where = f"(function LIKE '%:{first}' OR function LIKE '%:{second}')"
    wait_until("the chain was stopped", lambda: events_of(functions.stack, f"{where} AND state = 'failed'"), 60)
    found = events_of(functions.stack, where)
    assert [event.state for event in found] == ["succeeded"] * 31 + ["failed"]
    assert found[-1].error_type == "DestinationDeliveryFailed"
    assert "recursive loop" in found[-1].error_message


# --- when it does not arrive ---


def test_a_destination_that_does_not_exist(functions: Functions, aws_services: AwsServices) -> None:
    missing = aws_services.queue() + "-gone"
    name = functions.python(SOMETIMES, DeadLetterConfig={"TargetArn": missing})
    configure(functions, name, success=missing, MaximumRetryAttempts=0)
    for event, word in (({"a": 1}, "Destination"), ({"fail": "no"}, "DeadLetter")):
        request_id = send(functions, name, event)
        found = given_up(functions.stack, request_id)
        assert (found.state, found.error_type) == ("failed", f"{word}DeliveryFailed")
        assert found.error_message.startswith(f"{missing}: SQS, {missing}: ")
        assert "NonExistentQueue" in found.error_message
        (delivery,) = found.deliveries
        assert (delivery["state"], delivery["tries"]) == ("failed", 1)


def test_a_destination_function_that_was_deleted(functions: Functions) -> None:
    other, name = functions.python(SOMETIMES), functions.python(SOMETIMES)
    configure(functions, name, success=functions.arn(other))
    functions.client.delete_function(FunctionName=other)
    request_id = send(functions, name, {})
    wait_until_ended(functions.stack, request_id)
    (follower,) = events_of(functions.stack, "parent = ?", request_id)
    follower = wait_until_ended(functions.stack, follower.request_id)
    assert (follower.state, follower.error_type) == ("failed", "ResourceNotFoundException")
    assert functions.arn(other) in follower.error_message


@contextmanager
def front(port: int, endpoint: str) -> Iterator[Callable[[], None]]:
    """A server on that port that has only 503 for everybody, until the function that this gives is called: then it
    passes on all to ``endpoint``."""
    works = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = 503, b"<html>later</html>"
            if works.is_set():
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                request = urllib.request.Request(endpoint + self.path, body, headers, method="POST")
                with urllib.request.urlopen(request) as found:
                    status, answer = found.status, found.read()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield works.set
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_destination_that_is_down_and_comes_back(make_stack: Callable[..., Stack], aws_services: AwsServices) -> None:
    port = free_port()
    functions = Functions(make_stack(EVERWARM_TIME_SCALE="10", EVERWARM_SQS_ENDPOINT=f"http://127.0.0.1:{port}"))
    queue = aws_services.queue()
    name = functions.python(SOMETIMES)
    configure(functions, name, success=queue)
    request_id = send(functions, name, {"a": 1})

    def tries(word: str) -> int:
        found = event_of(functions.stack, request_id).deliveries
        return int(found[0]["tries"]) if found and word in found[0]["error"] else 0

    # The third may be under way while the error is still the second's.
    wait_until("nobody listened, twice", lambda: tries("connect") >= 3, 20)
    with front(port, aws_services.endpoint) as mend:
        before = wait_until("it was refused", lambda: tries("503"), 20)
        assert event_of(functions.stack, request_id).state == "succeeded"
        # What is not there yet outlives the dispatcher too.
        functions.stack.restart("dispatcher")
        mend()
        event = delivered(functions.stack, request_id)
        assert record_in(one_message(aws_services, queue))["requestContext"]["requestId"] == request_id
    (delivery,) = event.deliveries
    assert delivery["tries"] > before >= 3
    assert (event.state, delivery["error"]) == ("succeeded", "")


def test_a_service_that_this_server_does_not_have(stack: Stack) -> None:
    functions = Functions(stack)
    name = functions.python(SOMETIMES)
    configure(functions, name, success="arn:aws:sqs:us-east-1:000000000000:queue")
    request_id = send(functions, name, {})
    assert "set EVERWARM_SQS_ENDPOINT to its endpoint" in given_up(functions.stack, request_id).error_message


def test_a_service_that_hangs_holds_up_no_other(make_stack: Callable[..., Stack], aws_services: AwsServices) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        environ = {**aws_services.environ(), "EVERWARM_SNS_ENDPOINT": f"http://127.0.0.1:{deaf.getsockname()[1]}"}
        functions = Functions(make_stack(**environ))
        queue = aws_services.queue()
        lost, good = functions.python(SOMETIMES), functions.python(SOMETIMES)
        configure(functions, lost, success="arn:aws:sns:us-east-1:123456789012:topic")
        configure(functions, good, success=queue)
        for request_id in [send(functions, lost, {}) for _ in range(40)]:
            wait_until_ended(functions.stack, request_id)
        waits = []
        for _ in range(3):
            began = time.monotonic()
            delivered(functions.stack, send(functions, good, {}))
            waits.append(time.monotonic() - began)
        assert max(waits) < 5, waits
        assert len(events_of(functions.stack, f"function LIKE '%:{lost}' AND state = 'succeeded'")) == 40
