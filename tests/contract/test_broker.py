"""Celery's side of the contract: our envelope is Celery's own message, and a real worker runs it."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.cli.process import spawn
from tests.services.redis import RedisServer
from tests.services.waiting import wait_until
from workers.contract.broker import HIDDEN, SERIALIZER, TASK, create_celery, envelope, queue
from workers.contract.messages import LANES, MODES
from workers.contract.transport import broker_url

QUEUE = queue("local", "sync")
SECRET = b"s3cret-payload-of-a-call"
#: What differs from one message to the next, or from one machine to the next.
FREE = {("headers", "id"), ("headers", "root_id"), ("headers", "origin"), ("properties", "correlation_id"),
        ("properties", "delivery_tag"), ("properties", "reply_to")}  # fmt: skip


@pytest.fixture
def over_tcp(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis on a loopback port: its directory can't hold a socket's path."""
    server = RedisServer(tmp_path / ("long" * 30))
    assert server.url.startswith("redis://")
    server.start()
    yield server
    assert server.leaked_keys() == []
    server.close()


def sent_by_celery(server: RedisServer, batch: bytes) -> dict[str, Any]:
    """The message that ``send_task`` writes."""
    app = create_celery(server.url, "local")
    app.send_task(
        TASK, (batch,), queue=QUEUE, serializer=SERIALIZER, argsrepr=HIDDEN, kwargsrepr=HIDDEN, ignore_result=True
    )
    app.close()
    message: dict[str, Any] = json.loads(server.client.lpop(QUEUE))  # type: ignore[arg-type] # one, without a count
    return message


def shape(message: dict[str, Any]) -> dict[str, Any]:
    """The message without what is free to differ."""
    return {
        part: {name: None if (part, name) in FREE else value for name, value in content.items()}
        if isinstance(content, dict)
        else content
        for part, content in message.items()
    }


def test_the_envelope_is_what_celery_writes(redis_server: RedisServer) -> None:
    batch = bytes(range(256))
    ours, theirs = json.loads(envelope(batch, QUEUE)), sent_by_celery(redis_server, batch)
    assert ours["body"] == theirs["body"]
    expected = shape(theirs)
    for name in ("argsrepr", "kwargsrepr", "ignore_result"):  # options of send_task, which it also leaves here
        expected["properties"].pop(name, None)
    expected["properties"].pop("reply_to", None)  # of results, which there are none
    assert shape(ours) == expected
    assert ours["headers"]["id"] == ours["headers"]["root_id"] == ours["properties"]["correlation_id"]


def test_every_message_has_ids_of_its_own() -> None:
    messages = [json.loads(envelope(b"", QUEUE)) for _ in range(50)]
    assert len({message["headers"]["id"] for message in messages}) == 50
    assert len({message["properties"]["delivery_tag"] for message in messages}) == 50


@pytest.mark.parametrize("batch", [b"", b"%b %s %%", b"\0" * 100, SECRET * 1000], ids=len)
def test_a_message_carries_any_bytes(batch: bytes) -> None:
    message = json.loads(envelope(batch, "everwarm.docker-reuse.event"))
    assert batch in base64.b64decode(message["body"])
    assert message["properties"]["delivery_info"]["routing_key"] == "everwarm.docker-reuse.event"


def test_no_payload_in_the_headers() -> None:
    message = envelope(SECRET, QUEUE)
    outside = {name: value for name, value in json.loads(message).items() if name != "body"}
    assert SECRET.decode() not in json.dumps(outside)
    assert outside["headers"]["argsrepr"] == outside["headers"]["kwargsrepr"] == HIDDEN


def test_queues_are_named_after_mode_and_lane() -> None:
    names = [queue(mode, lane) for mode in MODES for lane in LANES]
    assert len(set(names)) == 9
    assert names[0] == "everwarm.local.sync"


@pytest.mark.parametrize("mode", MODES)
def test_a_worker_consumes_the_queues_of_its_mode_alone(mode: str) -> None:
    app = create_celery("redis://localhost", mode)
    assert sorted(found.name for found in app.conf.task_queues) == sorted(queue(mode, lane) for lane in LANES)
    assert not app.conf.task_create_missing_queues


def test_celery_is_set_as_the_design_has_it() -> None:
    conf = create_celery("redis://localhost", "local").conf
    assert conf.task_acks_late
    assert conf.worker_prefetch_multiplier == 1
    assert not conf.worker_enable_remote_control
    assert not conf.worker_send_task_events
    assert conf.result_backend is None
    assert conf.accept_content == ["application/x-msgpack"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost:6379/0", "everwarm://localhost:6379/0"),
        ("redis://:pass%2Fword@10.0.0.1/3", "everwarm://:pass%2Fword@10.0.0.1/3"),
        ("unix:///run/redis.sock", "everwarm+socket:///run/redis.sock?virtual_host=0"),
        ("unix://:p%40ss@/run/r.sock?db=2", "everwarm+socket://:p%40ss@/run/r.sock?virtual_host=2"),
        ("unix:///run/r.sock?password=p%40ss", "everwarm+socket://:p%40ss@/run/r.sock?virtual_host=0"),
    ],
)
def test_a_redis_url_becomes_the_brokers(url: str, expected: str) -> None:
    assert broker_url(url) == expected


@pytest.mark.parametrize("url", ["rediss://localhost", "http://localhost", "localhost:6379", ""])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="valid are redis and unix"):
        broker_url(url)


# --- a real worker ---

#: Answers each batch on a list, after the time that the batch begins with.
WORKER = """
import sys, time, redis, warnings
from workers.contract.broker import TASK, create_celery
warnings.simplefilter("ignore")
url, out = sys.argv[1], redis.Redis.from_url(sys.argv[1])
app = create_celery(url, "local")

@app.task(name=TASK, ignore_result=True, acks_late=True)
def run(batch):
    seconds, _, rest = batch.partition(b" ")
    out.rpush("test:begun", batch)
    time.sleep(float(seconds))
    out.rpush("test:done", rest)

worker = app.Worker(pool="threads", concurrency=2, loglevel="WARNING", without_gossip=True, without_mingle=True,
                    without_heartbeat=True, quiet=True)
worker.start()
"""


class Worker:
    """A Celery worker of the contract, without Everwarm around it."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.process: subprocess.Popen[bytes] = spawn([sys.executable, "-c", WORKER, server.url], dict(os.environ))

    def list(self, name: str) -> list[bytes]:
        found: Any = self.server.client.lrange(f"test:{name}", 0, -1)
        return list(found)

    def wait_for(self, name: str, count: int, timeout_s: float = 10) -> None:
        wait_until(f"{count} messages are {name}", lambda: len(self.list(name)) >= count, timeout_s)

    def publish(self, batch: bytes) -> None:
        self.server.client.lpush(QUEUE, envelope(batch, QUEUE))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.server.client.delete("test:begun", "test:done")


@pytest.fixture
def worker(redis_server: RedisServer) -> Iterator[Worker]:
    worker = Worker(redis_server)
    yield worker
    worker.close()


@pytest.fixture
def worker_over_tcp(over_tcp: RedisServer) -> Iterator[Worker]:
    worker = Worker(over_tcp)
    yield worker
    worker.close()


def test_a_worker_runs_our_messages_and_celerys_own(worker: Worker) -> None:
    worker.publish(b"0 ours")
    worker.wait_for("done", 1)
    app = create_celery(worker.server.url, "local")
    app.send_task(TASK, (b"0 theirs",), queue=QUEUE, serializer=SERIALIZER)
    app.close()
    worker.wait_for("done", 2)
    assert worker.list("done") == [b"ours", b"theirs"]
    assert worker.server.leaked_keys() == ["test:begun", "test:done"], "nothing of kombu's stays"


def test_a_worker_over_tcp(worker_over_tcp: Worker) -> None:
    worker_over_tcp.publish(b"0 " + SECRET * 10)
    worker_over_tcp.wait_for("done", 1)
    assert worker_over_tcp.list("done") == [SECRET * 10]


def test_a_full_worker_takes_no_more(worker: Worker) -> None:
    """Prefetch multiplier 1: what it can't begin stays in the queue for another."""
    for number in range(6):
        worker.publish(b"1.5 %d" % number)
    worker.wait_for("begun", 2)
    assert worker.server.client.llen(QUEUE) >= 3
    worker.wait_for("done", 6)
    assert sorted(worker.list("done")) == [b"%d" % number for number in range(6)]


def test_a_killed_worker_leaves_nothing_to_restore(worker: Worker) -> None:
    worker.publish(b"60 x")
    worker.wait_for("begun", 1)
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait()
    names = {name.decode() for name in worker.server.client.scan_iter()}
    assert not [name for name in names if re.search("unacked|mutex|reply|celery", name)], names


def test_a_task_goes_on_while_redis_is_restarted(worker_over_tcp: Worker) -> None:
    worker = worker_over_tcp
    worker.publish(b"1.5 first")
    worker.wait_for("begun", 1)
    worker.server.restart()
    worker.wait_for("done", 1)
    worker.publish(b"0 second")
    worker.wait_for("done", 2, 15)
    assert worker.process.poll() is None
    assert worker.list("done") == [b"first", b"second"]
