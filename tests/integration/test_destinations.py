"""Deliveries, with a server that speaks SQS, SNS, EventBridge and S3 at the other end."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dispatcher import settings
from dispatcher.events.destinations import Delivery, DeliveryError, Destinations
from dispatcher.ledger import records
from dispatcher.ledger.records import EndedEvent, Response
from tests.services.aws import ACCOUNT, AwsServices, aws_services
from tests.services.processes import free_port
from workers.contract.settings import SettingError

__all__ = ["aws_services"]

ID = "00000000-0000-4000-8000-000000000001"
FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:f"
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
QUEUE = f"arn:aws:sqs:us-east-1:{ACCOUNT}:q"
TOPIC = f"arn:aws:sns:us-east-1:{ACCOUNT}:t"
BUS = f"arn:aws:events:us-east-1:{ACCOUNT}:event-bus/b"
BUCKET = "arn:aws:s3:::bucket"
EVERYWHERE = [QUEUE, TOPIC, BUS, BUCKET]


def record(request: bytes = b'{"a" : 1}') -> bytes:
    at = datetime(2019, 11, 14, 18, 16, 5, tzinfo=UTC)
    return records.destination_record(EndedEvent(ID, FUNCTION, "RetriesExhausted", 3, request, Response(b"null"), at))


def destination(target: str, body: bytes | None = None) -> Delivery:
    return Delivery("destination", target, record() if body is None else body, ID, FUNCTION, success=False)


def dead_letter(target: str) -> Delivery:
    body, attributes = records.dead_letter(b'{"a" : 1}', ID, "division by zero")
    return Delivery("dead-letter", target, body, ID, FUNCTION, success=False, attributes=attributes, trace_id=TRACE)


def failure(destinations: Destinations, delivery: Delivery) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        destinations.send(delivery)
    return caught.value


@pytest.fixture(scope="module")
def destinations(aws_services: AwsServices) -> Destinations:
    return Destinations(settings.read(aws_services.environ()))


class Scripted:
    """An HTTP server that gives one answer to everything and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: tuple[int, str, bytes] = (200, "application/json", b"{}")
        self.asked: list[dict[str, str]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def answer_it(self) -> None:
                owner.asked.append({name.lower(): value for name, value in self.headers.items()})
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                status, kind, body = owner.answer
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = answer_it  # noqa: N815 - names of http.server

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.destinations = Destinations(settings.read(self.environ()))

    def environ(self) -> dict[str, str]:
        return {f"EVERWARM_{name}_ENDPOINT": self.endpoint for name in ("SQS", "SNS", "EVENTBRIDGE", "S3")}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def scripted_server() -> Iterator[Scripted]:
    # One, since boto3 takes half a second to make a client.
    server = Scripted()
    yield server
    server.close()


@pytest.fixture
def scripted(scripted_server: Scripted) -> Scripted:
    scripted_server.asked.clear()
    return scripted_server


def test_a_record_arrives_in_sqs(destinations: Destinations, aws_services: AwsServices) -> None:
    queue = aws_services.queue()
    destinations.send(destination(queue))
    (message,) = aws_services.messages(queue)
    assert message["Body"].encode() == record()
    assert "MessageAttributes" not in message
    assert "AWSTraceHeader" not in message["Attributes"]


def test_dead_letter_to_sqs(destinations: Destinations, aws_services: AwsServices) -> None:
    queue = aws_services.queue()
    destinations.send(dead_letter(queue))
    (message,) = aws_services.messages(queue)
    assert message["Body"] == '{"a" : 1}'
    assert message["MessageAttributes"] == {
        "RequestID": {"StringValue": ID, "DataType": "String"},
        "ErrorCode": {"StringValue": "200", "DataType": "Number"},
        "ErrorMessage": {"StringValue": "division by zero", "DataType": "String"},
    }
    assert message["Attributes"]["AWSTraceHeader"] == TRACE


def test_sqs_in_the_region_of_the_arn(destinations: Destinations, aws_services: AwsServices) -> None:
    queue = aws_services.queue("eu-west-1")
    destinations.send(destination(queue))
    assert len(aws_services.messages(queue)) == 1


def test_fifo_queue_gets_each_message_once(destinations: Destinations, aws_services: AwsServices) -> None:
    queue = aws_services.queue(FifoQueue="true")
    for delivery in (dead_letter(queue), dead_letter(queue), replace(dead_letter(queue), request_id="other")):
        destinations.send(delivery)
    found = [message["Attributes"]["MessageGroupId"] for message in aws_services.messages(queue)]
    assert found == [ID, "other"]


def test_records_are_sent_from_many_threads(destinations: Destinations, aws_services: AwsServices) -> None:
    queue = aws_services.queue()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: destinations.send(destination(queue)), range(10)))
    assert len(aws_services.messages(queue)) == 10


def test_a_record_arrives_in_sns(destinations: Destinations, aws_services: AwsServices) -> None:
    topic, queue = aws_services.topic()
    destinations.send(destination(topic))
    (message,) = aws_services.messages(queue)
    assert message["Body"].encode() == record()


def test_large_record_to_sns_loses_its_payloads(destinations: Destinations, aws_services: AwsServices) -> None:
    topic, queue = aws_services.topic()
    large = record(b'"%s"' % (b"x" * 300_000))
    destinations.send(destination(topic, large))
    (message,) = aws_services.messages(queue)
    assert message["Body"].encode() == records.record_for_sns(large)
    assert set(json.loads(message["Body"])) == {"version", "timestamp", "requestContext", "responseContext"}


def test_dead_letter_to_sns(destinations: Destinations, aws_services: AwsServices) -> None:
    topic, queue = aws_services.topic()
    destinations.send(dead_letter(topic))
    (message,) = aws_services.messages(queue)
    assert message["Body"] == '{"a" : 1}'
    found = {name: (value["DataType"], value["StringValue"]) for name, value in message["MessageAttributes"].items()}
    assert found == {
        "RequestID": ("String", ID),
        "ErrorCode": ("Number", "200"),
        "ErrorMessage": ("String", "division by zero"),
    }


@pytest.mark.parametrize(("success", "word"), [(True, "Success"), (False, "Failure")])
def test_a_record_arrives_in_eventbridge(
    destinations: Destinations, aws_services: AwsServices, success: bool, word: str
) -> None:
    bus, queue = aws_services.bus()
    destinations.send(replace(destination(bus), success=success, trace_id=TRACE))
    (message,) = aws_services.messages(queue)
    event = json.loads(message["Body"])
    assert event["source"] == "lambda"
    assert event["detail-type"] == f"Lambda Function Invocation Result - {word}"
    assert event["resources"] == [bus, f"{FUNCTION}:$LATEST"]
    assert event["detail"] == json.loads(record())


def test_a_record_arrives_in_s3(destinations: Destinations, aws_services: AwsServices) -> None:
    bucket = aws_services.bucket()
    for _ in range(2):
        destinations.send(destination(f"arn:aws:s3:::{bucket}"))
    (found,) = aws_services.s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert found["Key"] == records.s3_key(FUNCTION, record())
    answer = aws_services.s3.get_object(Bucket=bucket, Key=found["Key"])
    assert answer["Body"].read() == record()
    assert answer["ContentType"] == "application/json"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (QUEUE + "-gone", "SQS, .*NonExistentQueue"),
        (TOPIC + "-gone", "SNS, .*NotFound"),
        (BUS + "-gone", "EventBridge, .*ResourceNotFound"),
        (BUCKET + "-gone", "S3, .*NoSuchBucket"),
    ],
)
def test_target_that_does_not_exist(destinations: Destinations, target: str, words: str) -> None:
    error = failure(destinations, destination(target))
    assert error.final
    assert target in str(error)
    with pytest.raises(DeliveryError, match=words):
        raise error


def test_queue_that_is_made_again(destinations: Destinations, aws_services: AwsServices) -> None:
    queue = aws_services.queue()
    name = queue.rsplit(":", 1)[1]
    destinations.send(destination(queue))
    aws_services.sqs.delete_queue(QueueUrl=aws_services.sqs.get_queue_url(QueueName=name)["QueueUrl"])
    assert failure(destinations, destination(queue)).final
    aws_services.sqs.create_queue(QueueName=name)
    destinations.send(destination(queue))
    assert len(aws_services.messages(queue)) == 1


@pytest.mark.parametrize(
    "target",
    [
        "", "q", "http://127.0.0.1/q", "arn:aws:sqs:us-east-1:1:q", f"{QUEUE}\n", f"{QUEUE}/../x", "arn:aws:s3:::b/key",
        f"arn:aws:sqs:evil.example/:{ACCOUNT}:q", f"arn:aws:kinesis:us-east-1:{ACCOUNT}:stream/s", f"{FUNCTION}:live",
        f"arn:aws:events:us-east-1:{ACCOUNT}:rule/r",
    ],
)  # fmt: skip
def test_target_that_is_none(destinations: Destinations, target: str) -> None:
    assert failure(destinations, destination(target)).final


@pytest.mark.parametrize("target", [BUS, BUCKET])
def test_dead_letters_go_to_queues_and_topics_only(destinations: Destinations, target: str) -> None:
    error = failure(destinations, dead_letter(target))
    assert error.final
    assert "dead letters go to SQS or SNS" in str(error)


def test_body_that_is_no_text(destinations: Destinations, aws_services: AwsServices) -> None:
    assert failure(destinations, destination(aws_services.queue(), b"\xff")).final


@pytest.mark.parametrize(
    ("target", "variable"),
    [
        (QUEUE, "EVERWARM_SQS_ENDPOINT"),
        (TOPIC, "EVERWARM_SNS_ENDPOINT"),
        (BUS, "EVERWARM_EVENTBRIDGE_ENDPOINT"),
        (BUCKET, "EVERWARM_S3_ENDPOINT"),
    ],
)
def test_without_an_endpoint_nothing_is_sent(target: str, variable: str, planted: Path) -> None:
    error = failure(Destinations(settings.read({})), destination(target))
    assert error.final
    assert f"set {variable} to its endpoint" in str(error)


@pytest.mark.parametrize("target", EVERYWHERE)
def test_endpoint_where_nobody_listens(target: str) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    environ = {f"EVERWARM_{name}_ENDPOINT": dead for name in ("SQS", "SNS", "EVENTBRIDGE", "S3")}
    error = failure(Destinations(settings.read(environ)), destination(target))
    assert not error.final
    assert dead in str(error)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://sqs.us-east-1.amazonaws.com", "https://SQS.us-east-1.AMAZONAWS.COM.:443/x", "https://amazonaws.com",
        "https://sqs.cn-north-1.amazonaws.com.cn", "https://sqs.us-east-1.api.aws", "https://u:p@sqs.eu-west-1.amazonaws.com",
    ],
)  # fmt: skip
def test_aws_itself_is_refused(endpoint: str) -> None:
    error = failure(Destinations(settings.read({"EVERWARM_SQS_ENDPOINT": endpoint})), destination(QUEUE))
    assert error.final
    assert "takes EVERWARM_REAL_AWS=1" in str(error)


def test_endpoint_that_is_no_url() -> None:
    assert failure(Destinations(settings.read({"EVERWARM_SQS_ENDPOINT": "http://:x"})), destination(QUEUE)).final


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Credentials in every place where AWS's tools look."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "PLANTED")
    monkeypatch.setenv("AWS_PROFILE", "planted")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "planted"))
    (tmp_path / "planted").write_text("[planted]\naws_access_key_id = PLANTED\naws_secret_access_key = PLANTED\n")
    return tmp_path


@pytest.mark.parametrize("target", EVERYWHERE)
def test_credentials_of_the_operator_are_not_used(target: str, scripted: Scripted, planted: Path) -> None:
    scripted.answer = (403, "text/xml", b"<Error><Code>AccessDenied</Code></Error>")
    environ = {**scripted.environ(), "EVERWARM_AWS_ACCESS_KEY": "ours", "EVERWARM_S3_ACCESS_KEY": "ours3"}
    assert failure(Destinations(settings.read(environ)), destination(target)).final
    (asked,) = scripted.asked
    assert f"Credential={'ours3' if target == BUCKET else 'ours'}/" in asked["authorization"]
    assert "PLANTED" not in str(asked)


def test_real_aws_uses_them(scripted: Scripted, planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.answer = (403, "application/json", b"{}")
    # botocore's own variable keeps the request here.
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", scripted.endpoint)
    monkeypatch.delenv("AWS_PROFILE")
    environ = {"EVERWARM_REAL_AWS": "1", "AWS_ENDPOINT_URL_SQS": scripted.endpoint}
    assert failure(Destinations(settings.read(environ)), destination(QUEUE)).final
    assert "Credential=PLANTED/" in scripted.asked[0]["authorization"]


def test_variables_of_aws_tools_name_the_endpoints() -> None:
    names = {"S3": "s3", "SQS": "sqs", "SNS": "sns", "EVENTBRIDGE": "eventbridge"}
    theirs = {f"AWS_ENDPOINT_URL_{name}": f"http://theirs/{name}" for name in names}
    found = settings.read(theirs)
    assert [getattr(found, f"{field}_endpoint") for field in names.values()] == list(theirs.values())
    assert settings.read({**theirs, "EVERWARM_SQS_ENDPOINT": "http://ours"}).sqs_endpoint == "http://ours"
    with pytest.raises(SettingError, match="AWS_ENDPOINT_URL_SNS"):
        settings.read({"AWS_ENDPOINT_URL_SNS": "localhost:4566"})


@pytest.mark.parametrize(
    ("status", "code", "final"),
    [
        (500, "InternalError", False),
        (503, "ServiceUnavailable", False),
        (429, "Anything", False),
        (400, "RequestThrottled", False),
        (400, "ThrottlingException", False),
        (400, "LimitExceededException", False),
        (400, "InvalidParameterValue", True),
        (403, "AccessDenied", True),
        (404, "NotFound", True),
    ],
)
def test_what_passes_by_itself(status: int, code: str, final: bool, scripted: Scripted) -> None:
    scripted.answer = (status, "application/x-amz-json-1.1", json.dumps({"__type": code, "message": "m"}).encode())
    error = failure(scripted.destinations, destination(BUS))
    assert (error.final, str(error)) == (final, f"EventBridge, {BUS}: {code}: m")
    scripted.answer = (
        status, "text/xml", f"<ErrorResponse><Error><Code>{code}</Code><Message>m</Message></Error></ErrorResponse>".encode(),
    )  # fmt: skip
    error = failure(scripted.destinations, destination(TOPIC))
    assert (error.final, str(error)) == (final, f"SNS, {TOPIC}: {code}: m")
    assert len(scripted.asked) == 2, "boto3 tried again"


@pytest.mark.parametrize(
    ("code", "final"),
    [("ThrottlingException", False), ("InternalFailure", False), ("NotAuthorizedForSourceException", True)],
)
def test_entry_that_eventbridge_refuses(code: str, final: bool, scripted: Scripted) -> None:
    answer = {"FailedEntryCount": 1, "Entries": [{"ErrorCode": code, "ErrorMessage": "m"}]}
    scripted.answer = (200, "application/x-amz-json-1.1", json.dumps(answer).encode())
    error = failure(scripted.destinations, destination(BUS))
    assert (error.final, str(error)) == (final, f"EventBridge, {BUS}: {code}: m")


@pytest.mark.parametrize("target", [QUEUE, TOPIC, BUS])
@pytest.mark.parametrize("status", [200, 502])
@pytest.mark.parametrize("page", [b"<html><p>Welcome to nginx!</html>", b"<html></html>", b"", b"Bad gateway"])
def test_page_that_is_no_answer(target: str, status: int, page: bytes, scripted: Scripted) -> None:
    scripted.answer = (status, "text/html", page)
    assert not failure(scripted.destinations, destination(target)).final
