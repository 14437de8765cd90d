"""SQS, SNS, EventBridge and S3 for tests: the process of ``tests.services.s3``, with a client for each."""

import json
import uuid
from typing import Any, Final

import boto3
import pytest

from tests.services.s3 import S3Server

#: The account that moto gives everybody.
ACCOUNT: Final = "123456789012"
REGION: Final = "us-east-1"


class AwsServices:
    """A process that speaks SQS, SNS, EventBridge and S3. Names are new with each call."""

    def __init__(self, server: S3Server) -> None:
        self.endpoint = server.endpoint
        self.s3 = server.client
        self.sqs = self.client("sqs")
        self.sns = self.client("sns")
        self.events = self.client("events")

    def client(self, service: str, region: str = REGION) -> Any:
        """A client of the service."""
        # Any: these clients have no stubs here.
        session: Any = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=region)
        return session.client(service, endpoint_url=self.endpoint)

    def environ(self) -> dict[str, str]:
        """The variables with which a dispatcher uses it."""
        names = ("SQS", "SNS", "EVENTBRIDGE", "S3")
        return {f"EVERWARM_{name}_ENDPOINT": self.endpoint for name in names}

    def queue(self, region: str = REGION, **attributes: str) -> str:
        """The ARN of a new queue."""
        name = f"queue-{uuid.uuid4().hex[:8]}{'.fifo' if attributes.get('FifoQueue') else ''}"
        self.client("sqs", region).create_queue(QueueName=name, Attributes=attributes)
        return f"arn:aws:sqs:{region}:{ACCOUNT}:{name}"

    def messages(self, queue: str) -> list[dict[str, Any]]:
        """Take up to ten messages out of the queue, as SQS gives them."""
        _, _, _, region, _, name = queue.split(":")
        sqs = self.client("sqs", region)
        url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        answer = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
        )
        found: list[dict[str, Any]] = answer.get("Messages", [])
        for message in found:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return found

    def topic(self) -> tuple[str, str]:
        """The ARNs of a new topic and of a queue that gets all of it, raw."""
        topic = self.sns.create_topic(Name=f"topic-{uuid.uuid4().hex[:8]}")["TopicArn"]
        queue = self.queue()
        self.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue, Attributes={"RawMessageDelivery": "true"})
        return topic, queue

    def bus(self) -> tuple[str, str]:
        """The ARNs of a new event bus and of a queue that gets the events with source ``lambda``."""
        name = f"bus-{uuid.uuid4().hex[:8]}"
        arn = self.events.create_event_bus(Name=name)["EventBusArn"]
        queue = self.queue()
        self.events.put_rule(Name=name, EventBusName=name, EventPattern=json.dumps({"source": ["lambda"]}))
        self.events.put_targets(Rule=name, EventBusName=name, Targets=[{"Id": "1", "Arn": queue}])
        return arn, queue

    def bucket(self) -> str:
        """The name of a new bucket."""
        name = f"bucket-{uuid.uuid4().hex[:8]}"
        self.s3.create_bucket(Bucket=name)
        return name


@pytest.fixture(scope="session")
def aws_services(s3_server: S3Server) -> AwsServices:
    """SQS, SNS, EventBridge and S3 for the session."""
    return AwsServices(s3_server)
