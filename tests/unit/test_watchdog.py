"""The watchdog's judgement, and the note of each poll that it judges by."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from tests.services.redis import RedisServer
from tests.services.waiting import wait_until
from workers.contract import keys
from workers.contract.broker import create_celery, envelope, queue
from workers.contract.transport import Polls, clock
from workers.intake import watchdog
from workers.intake.watchdog import LIMIT_S, Look, Stalled, Watchdog, missing_since, stalled, where
from workers.redis_client import Store

QUEUE = queue("local", "sync")


def fires(*looks: Look) -> bool:
    """Whether one of these looks, in order, finds the consumer stalled."""
    before, since = None, 0.0
    for look in looks:
        since = missing_since(before, since, look)
        if stalled(since, look, LIMIT_S):
            return True
        before = look
    return False


def each_second(count: int, polled: float = 0.0, begin: int = 0, **what: bool) -> list[Look]:
    return [Look(float(at), polled, **what) for at in range(begin, begin + count)]


def test_the_watchdog_fires_when_polls_have_stopped() -> None:
    assert not fires(*each_second(16))
    assert fires(*each_second(17))


def test_polls_that_go_on() -> None:
    assert not fires(*(Look(float(at), at - 0.9) for at in range(100)))


def test_polls_that_stopped_after_a_while() -> None:
    assert not fires(*each_second(16, polled=5.0, begin=5))
    assert fires(*each_second(12), *each_second(30, polled=11.5, begin=12))
    assert not fires(*each_second(12), *each_second(15, polled=11.5, begin=12))


@pytest.mark.parametrize("what", [{"full": True}, {"redis": False}, {"stopping": True}])
def test_time_that_does_not_count(what: dict[str, bool]) -> None:
    assert not fires(*each_second(1000, **what))
    assert not fires(*each_second(15), *each_second(1, begin=15, **what), *each_second(15, begin=16))
    assert fires(*each_second(15), *each_second(1, begin=15, **what), *each_second(17, begin=16))


@pytest.mark.parametrize("pause", [4, 60, 86_400])
def test_a_process_that_was_stopped_has_the_whole_time_again(pause: int) -> None:
    before = each_second(15)
    assert not fires(*before, *each_second(16, begin=14 + pause))
    assert fires(*before, *each_second(17, begin=14 + pause))


def test_a_look_that_comes_a_little_late_counts() -> None:
    assert fires(*(Look(at * 2.5, 0.0) for at in range(8)))


# --- the note ---


class Consumer:
    """A kombu channel that consumes the queues as a worker's does, turned by hand."""

    def __init__(self, url: str, slots: int) -> None:
        self.polls = Polls()
        self.app = create_celery(url, "local", self.polls)
        self.connection = self.app.connection_for_read()
        self.got: list[Any] = []
        self.consumer = self.app.amqp.TaskConsumer(self.connection, on_message=self.got.append)
        self.consumer.qos(prefetch_count=slots)
        self.consumer.consume()

    def turn(self) -> None:
        """One turn of the loop."""
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=0.1)

    def turn_until(self, condition: Callable[[], object]) -> None:
        def turned() -> object:
            self.turn()
            return condition()

        wait_until("the turns have led there", turned)

    def has_polled_since(self, when: float) -> bool:
        return self.polls.last > when

    def close(self) -> None:
        self.connection.close()
        self.app.close()


@pytest.fixture
def consumer(redis_server: RedisServer) -> Iterator[Consumer]:
    consumer = Consumer(redis_server.url, slots=2)
    yield consumer
    consumer.close()


def test_an_idle_consumer_notes_a_poll_each_second(consumer: Consumer) -> None:
    for _ in range(3):
        before = clock()
        consumer.turn_until(partial(consumer.has_polled_since, before))
        assert not consumer.polls.full


def test_a_full_consumer_polls_no_more_until_a_slot_is_free(redis_server: RedisServer, consumer: Consumer) -> None:
    for _ in range(3):
        redis_server.client.lpush(QUEUE, envelope(b"", QUEUE))
    consumer.turn_until(lambda: len(consumer.got) == 2)
    assert consumer.polls.full
    last = consumer.polls.last
    for _ in range(3):
        consumer.turn()
    assert consumer.polls.last == last
    consumer.got[0].ack()
    assert not consumer.polls.full
    consumer.turn_until(lambda: len(consumer.got) == 3)
    assert consumer.polls.last > last


def test_what_a_closed_channel_holds_limits_nobody(redis_server: RedisServer, consumer: Consumer) -> None:
    for _ in range(2):
        redis_server.client.lpush(QUEUE, envelope(b"", QUEUE))
    consumer.turn_until(lambda: consumer.polls.full)
    consumer.connection.close()
    assert not consumer.polls.full


def test_a_poll_without_an_answer_is_not_noted_again(redis_server: RedisServer, consumer: Consumer) -> None:
    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        consumer.turn()
        last = consumer.polls.last
        began = time.monotonic()
        consumer.turn_until(lambda: time.monotonic() - began > 1.5)
        assert consumer.polls.last == last
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)
    consumer.turn_until(partial(consumer.has_polled_since, last))


# --- the thread ---


@pytest.fixture
def failures() -> list[BaseException]:
    return []


@pytest.fixture
def dog(
    redis_server: RedisServer, failures: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Watchdog, Polls]]:
    """One that looks often and has little patience, over polls that the test notes."""
    monkeypatch.setattr(watchdog, "LIMIT_S", 0.3)
    monkeypatch.setattr(watchdog, "_EVERY_S", 0.02)
    polls = Polls()
    one = Watchdog(polls, Store(redis_server.url), "w", failures.append)
    one.start()
    yield one, polls
    one.stop()


def beat(server: RedisServer) -> None:
    server.client.set(keys.worker("w"), "", px=20_000)


def test_it_reports_a_stall_and_where_the_main_thread_is(
    redis_server: RedisServer, dog: tuple[Watchdog, Polls], failures: list[BaseException]
) -> None:
    beat(redis_server)
    wait_until("it fires", lambda: failures)
    (error,) = failures
    assert isinstance(error, Stalled)
    assert "though slots are free and Redis answers" in str(error)
    assert "waiting.py:" in str(error)


def test_without_a_heartbeat_it_does_not_judge(
    redis_server: RedisServer, dog: tuple[Watchdog, Polls], failures: list[BaseException]
) -> None:
    began = time.monotonic()
    wait_until("some time is over", lambda: time.monotonic() - began > 1)
    assert failures == []
    beat(redis_server)
    wait_until("it fires", lambda: failures)


def test_stopped_it_does_not_judge(
    redis_server: RedisServer, dog: tuple[Watchdog, Polls], failures: list[BaseException]
) -> None:
    beat(redis_server)
    dog[0].stop()
    wait_until("its thread has ended", lambda: "watchdog" not in {thread.name for thread in threading.enumerate()})
    assert failures == []


def test_where_is_the_main_thread_innermost_call_first() -> None:
    first, second, *_ = where().split(" < ")
    assert first.startswith("watchdog.py:")
    assert second.startswith("test_watchdog.py:")
