"""Sends records and dead letters to SQS, SNS, EventBridge and S3.

A target's ARN is chosen by whoever may configure functions, so it never leads to AWS with the operator's credentials: as
in ``dispatcher.code.s3``, requests go to the endpoints of the settings with the keys of the settings. Profiles, instance
roles and the ``AWS_*`` variables are only read with ``EVERWARM_REAL_AWS=1`` and no endpoint of one's own.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
import msgspec
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from dispatcher.code.s3 import NO_PROFILES
from dispatcher.ledger import records
from dispatcher.settings import DispatcherSettings

Service = Literal["sqs", "sns", "events", "s3"]

_CONFIG: Final = Config(
    connect_timeout=5,
    read_timeout=10,
    retries={"total_max_attempts": 1},  # the ledger tries again
    max_pool_connections=32,
    s3={"addressing_style": "path"},
    response_checksum_validation="when_required",
    request_checksum_calculation="when_required",
)
#: Service in an ARN → what people call it, and in the name of its variable.
_NAMES: Final[dict[Service, str]] = {"sqs": "SQS", "sns": "SNS", "events": "EventBridge", "s3": "S3"}
_ARN: Final = re.compile(
    r"arn:aws[a-z-]*:(?:"
    r"(?P<sqs>sqs):(?P<sqs_region>[a-z0-9-]{1,32}):(?P<account>[0-9]{12}):(?P<queue>[\w-]{1,80}(?:\.fifo)?)"
    r"|(?P<sns>sns):(?P<sns_region>[a-z0-9-]{1,32}):[0-9]{12}:[\w-]{1,256}(?:\.fifo)?"
    r"|(?P<events>events):(?P<events_region>[a-z0-9-]{1,32}):[0-9]{12}:event-bus/[\w./-]{1,256}"
    r"|(?P<s3>s3):::(?P<bucket>[\w.-]{3,255})"
    r")",
    re.ASCII,
)
_LAMBDA: Final = re.compile(r"arn:aws[a-z-]*:lambda:")
#: Error codes of 4xx after which another try may succeed, besides those with "throttl" in them (botocore's retry handlers have
#: the same), and those that EventBridge gives an entry.
_PASSING: Final = frozenset(
    {
        "BandwidthLimitExceeded", "InternalException", "InternalFailure", "LimitExceededException", "PriorRequestNotComplete",
        "RequestLimitExceeded", "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable", "SlowDown",
        "TooManyRequestsException",
    }
)  # fmt: skip
_PASSING_STATUS: Final = frozenset({408, 429})
_TRANSPORT: Final = (
    BotoConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    ResponseParserError,
    KeyError,  # what botocore's parser raises for a page of some proxy that happens to be XML
)
#: Clients and queues that are remembered; there is a limit because callers choose the regions and names.
_MOST_CLIENTS: Final = 64
_MOST_QUEUES: Final = 10_000


class DeliveryError(Exception):
    """A delivery failed. ``final`` says that another try would fail too."""

    def __init__(self, message: str, final: bool) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message for one target; ``attributes`` are those of a dead letter, ``trace_id`` is ``X-Amzn-Trace-Id``."""

    kind: Literal["destination", "dead-letter"]
    target: str
    body: bytes
    request_id: str
    function_arn: str
    success: bool
    attributes: dict[str, str] = field(default_factory=dict)
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class _Target:
    """A target's ARN taken apart; ``name`` is a queue or a bucket."""

    service: Service
    region: str
    account: str
    name: str


class Destinations:
    """Sends deliveries to all services but Lambda, from any number of threads."""

    def __init__(self, settings: DispatcherSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        # Any: boto3's clients are made from data.
        self._clients: dict[tuple[Service, str], Any] = {}
        self._queues: dict[str, str] = {}

    def send(self, delivery: Delivery) -> None:
        """Send a delivery and wait for the answer. Raises ``DeliveryError``."""
        target = _target(delivery)
        with _errors_of(_NAMES[target.service], delivery.target):
            client = self._client(target.service, target.region)
            if target.service == "sqs":
                self._send_sqs(client, target, delivery)
            elif target.service == "sns":
                _send_sns(client, delivery)
            elif target.service == "events":
                _send_events(client, delivery)
            else:
                client.put_object(
                    Bucket=target.name,
                    Key=records.s3_key(delivery.function_arn, delivery.body),
                    Body=delivery.body,
                    ContentType="application/json",
                )

    def _send_sqs(self, client: Any, target: _Target, delivery: Delivery) -> None:
        url = self._queues.get(delivery.target)
        if url is None:
            answer = client.get_queue_url(QueueName=target.name, QueueOwnerAWSAccountId=target.account)
            url = str(_expected("QueueUrl", answer, "SQS", delivery))
            with self._lock:
                if len(self._queues) >= _MOST_QUEUES:
                    self._queues.clear()
                self._queues[delivery.target] = url
        trace = records.trace_header(delivery.trace_id)
        more: dict[str, Any] = _fifo(delivery)
        if trace:
            more["MessageSystemAttributes"] = {"AWSTraceHeader": {"DataType": "String", "StringValue": trace}}
        try:
            answer = client.send_message(
                QueueUrl=url,
                MessageBody=delivery.body.decode(),
                MessageAttributes=records.message_attributes(delivery.attributes),
                **more,
            )
        except ClientError:
            # The queue may have another URL by now.
            with self._lock:
                self._queues.pop(delivery.target, None)
            raise
        _expected("MessageId", answer, "SQS", delivery)

    def _client(self, service: Service, region: str) -> Any:
        with self._lock:  # making clients is not thread-safe, using them is
            client = self._clients.get((service, region))
            if client is None:
                if len(self._clients) >= _MOST_CLIENTS:
                    self._clients.clear()
                client = self._clients[service, region] = self._make_client(service, region)
            return client

    def _make_client(self, service: Service, region: str) -> Any:
        settings = self._settings
        endpoint, variable = _endpoint(settings, service)
        if not endpoint:
            if not settings.real_aws:
                raise DeliveryError(f"this server has no {_NAMES[service]}: set {variable} to its endpoint", final=True)
            session: Any = boto3.Session()
            return session.client(service, region_name=region or None, config=_CONFIG)
        if not settings.real_aws and _is_aws(endpoint):
            raise DeliveryError(f"{variable}={endpoint} is AWS itself, which takes EVERWARM_REAL_AWS=1", final=True)
        own_s3 = service == "s3"
        session = boto3.Session(
            aws_access_key_id=settings.s3_access_key if own_s3 else settings.aws_access_key,
            aws_secret_access_key=settings.s3_secret_key if own_s3 else settings.aws_secret_key,
            region_name=region or settings.s3_region,
            botocore_session=botocore.session.Session(session_vars=NO_PROFILES),
        )
        return session.client(service, endpoint_url=endpoint, config=_CONFIG)


def _send_sns(client: Any, delivery: Delivery) -> None:
    body = records.record_for_sns(delivery.body) if delivery.kind == "destination" else delivery.body
    answer = client.publish(
        TopicArn=delivery.target,
        Message=body.decode(),
        MessageAttributes=records.message_attributes(delivery.attributes),
        **_fifo(delivery),
    )
    _expected("MessageId", answer, "SNS", delivery)


def _send_events(client: Any, delivery: Delivery) -> None:
    entry = records.eventbridge_entry(
        delivery.target, delivery.function_arn, success=delivery.success, record=delivery.body
    )
    trace = records.trace_header(delivery.trace_id)
    answer = client.put_events(Entries=[{**entry, "TraceHeader": trace} if trace else entry])
    for found in _expected("Entries", answer, "EventBridge", delivery):
        code = found.get("ErrorCode")
        if code or answer.get("FailedEntryCount"):
            text = f"EventBridge, {delivery.target}: {code}: {found.get('ErrorMessage', '')}"
            raise DeliveryError(text, final=not _passes(code or "", 0))


def _expected(member: str, answer: dict[str, Any], service: str, delivery: Delivery) -> Any:
    """A member that every answer of the service has. Raises ``DeliveryError`` without it, because botocore takes any page with
    status 200 for an answer without members.
    """
    found = answer.get(member)
    if not found:
        text = f"{service}, {delivery.target}: the answer has no {member}; is the endpoint {service}?"
        raise DeliveryError(text, final=False)
    return found


def _fifo(delivery: Delivery) -> dict[str, str]:
    if not delivery.target.endswith(".fifo"):
        return {}
    return records.fifo_parameters(delivery.request_id, delivery.body)


def _target(delivery: Delivery) -> _Target:
    arn = delivery.target
    if _LAMBDA.match(arn):
        raise DeliveryError(f"{arn}: a function gets records as events, not from here", final=True)
    found = _ARN.fullmatch(arn)
    if not found:
        raise DeliveryError(f"{arn} is not the ARN of a queue, topic, event bus or bucket", final=True)
    groups = found.groupdict(default="")
    service = next(name for name in _NAMES if groups[name])
    if delivery.kind == "dead-letter" and service not in {"sqs", "sns"}:
        raise DeliveryError(f"{arn}: dead letters go to SQS or SNS", final=True)
    region = groups.get(f"{service}_region", "")
    return _Target(service, region, groups["account"], groups["queue"] or groups["bucket"])


def _endpoint(settings: DispatcherSettings, service: Service) -> tuple[str, str]:
    """The service's endpoint, or empty, and the variable that sets it."""
    return {
        "sqs": (settings.sqs_endpoint, "EVERWARM_SQS_ENDPOINT"),
        "sns": (settings.sns_endpoint, "EVERWARM_SNS_ENDPOINT"),
        "events": (settings.eventbridge_endpoint, "EVERWARM_EVENTBRIDGE_ENDPOINT"),
        "s3": (settings.s3_endpoint, "EVERWARM_S3_ENDPOINT"),
    }[service]


def _is_aws(endpoint: str) -> bool:
    host = (urlsplit(endpoint).hostname or "").rstrip(".")
    return any(host == suffix or host.endswith(f".{suffix}") for suffix in _aws_suffixes())


@lru_cache(maxsize=1)
def _aws_suffixes() -> frozenset[str]:
    """``amazonaws.com``, ``api.aws``, ``amazonaws.com.cn``, …: what botocore knows of AWS's partitions."""
    outputs = [partition["outputs"] for partition in botocore.loaders.Loader().load_data("partitions")["partitions"]]
    return frozenset(found[name] for found in outputs for name in ("dnsSuffix", "dualStackDnsSuffix"))


@contextmanager
def _errors_of(service: str, target: str) -> Iterator[None]:
    """Turns what boto3 raises into ``DeliveryError``."""
    try:
        yield
    except ClientError as error:
        found = error.response.get("Error", {})  # missing in an error page that happens to be XML
        code = found.get("Code") or "Unknown"
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        text = f"{service}, {target}: {code}: {found.get('Message', '')}"
        raise DeliveryError(text, final=not _passes(code, status)) from error
    except _TRANSPORT as error:
        raise DeliveryError(f"{service}, {target}: {error}", final=False) from error
    # What is wrong before anything is sent: settings that botocore can't use, a body that is no text.
    except (BotoCoreError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise DeliveryError(f"{service}, {target}: {error}", final=True) from error


def _passes(code: str, status: int) -> bool:
    return status >= 500 or status in _PASSING_STATUS or code in _PASSING or "throttl" in code.lower()
