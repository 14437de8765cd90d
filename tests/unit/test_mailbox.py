"""The mailbox: messages to their handlers, whatever Redis does."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.services.redis import RedisServer
from tests.services.waiting import wait_until
from workers.contract import keys
from workers.intake.mailbox import Mailbox, Move, Unreadable, parse_move, pop_unread_messages, split_message
from workers.redis_client import Store

KEY = keys.mailbox("w")


def push(server: RedisServer, *messages: bytes) -> None:
    server.client.rpush(KEY, *messages)
    server.client.pexpire(KEY, 60_000)


class Post:
    """A mailbox, what its handlers got, and what it died of."""

    def __init__(self, server: RedisServer) -> None:
        self.store = Store(server.url)
        self.got: list[tuple[str, bytes]] = []
        self.died: list[BaseException] = []
        handlers = {"move": self.on_move, "prepare": lambda body: self.got.append(("prepare", body))}
        self.mailbox = Mailbox(self.store, "w", handlers, self.died.append)

    def has(self, count: int) -> bool:
        return len(self.got) == count

    def on_move(self, body: bytes) -> None:
        self.got.append(("move", parse_move(body).batch))


@pytest.fixture
def post(redis_server: RedisServer) -> Iterator[Post]:
    post = Post(redis_server)
    yield post
    post.mailbox.stop()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may kill."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.close()


def test_a_move_is_read() -> None:
    batch = b"\x00\n move \xff" * 3
    kind, body = split_message(b"move e1 12 request:1@worker 7\n" + batch)
    assert kind == "move"
    assert parse_move(body) == Move("e1", 12, "request:1@worker 7", batch)
    assert parse_move(b"e1 1 o\n") == Move("e1", 1, "o", b"")


@pytest.mark.parametrize("body", [b"", b"\n", b"e", b"e 1\nbatch", b"e one o\nbatch", b"\xff 1 \xfe\nbatch"])
def test_a_move_that_is_none(body: bytes) -> None:
    with pytest.raises(Unreadable):
        parse_move(body)


def test_messages_go_to_the_handler_of_their_kind(redis_server: RedisServer, post: Post) -> None:
    push(redis_server, b"move e 1 o\nbatch", b"prepare ", b"prepare something else")
    assert [post.mailbox.run_once(1) for _ in range(4)] == [True, True, True, False]
    assert post.got == [("move", b"batch"), ("prepare", b""), ("prepare", b"something else")]


def test_what_can_not_be_read_is_dropped(
    redis_server: RedisServer, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    push(redis_server, b"", b"future 1", b"\xff\xfe", b"move nonsense", b"move e 1 o\nbatch")
    for _ in range(5):
        assert post.mailbox.run_once(1)
    assert post.got == [("move", b"batch")]
    assert len(caplog.records) == 4


def test_the_thread_reads_as_soon_as_they_come_and_stops(redis_server: RedisServer, post: Post) -> None:
    post.mailbox.start()
    for number in range(3):
        push(redis_server, b"prepare %d" % number)
        wait_until("the message was read", partial(post.has, number + 1), 5)
    post.mailbox.stop()
    push(redis_server, b"prepare late")
    assert pop_unread_messages(post.store, "w") == [("prepare", b"late")]
    assert pop_unread_messages(post.store, "w") == []
    assert not post.died


def test_a_mailbox_that_was_not_started_stops(post: Post) -> None:
    post.mailbox.stop()


def test_redis_that_is_gone_is_waited_out(mortal: RedisServer) -> None:
    post = Post(mortal)
    post.mailbox.start()
    push(mortal, b"prepare before")
    wait_until("the message was read", lambda: post.got, 5)
    mortal.kill9()
    assert not Mailbox(post.store, "w", {}, post.died.append).run_once(1)
    mortal.start()
    push(mortal, b"prepare after")
    wait_until("the message was read", lambda: len(post.got) == 2, 5)
    post.mailbox.stop()
    assert not post.died


def test_it_stops_while_redis_is_gone(mortal: RedisServer) -> None:
    post = Post(mortal)
    post.mailbox.start()
    mortal.kill9()
    post.mailbox.stop()
    assert "mailbox" not in [thread.name for thread in threading.enumerate()]


def test_a_handler_that_fails_ends_the_process(redis_server: RedisServer) -> None:
    def fail(_: Any) -> None:
        raise ZeroDivisionError

    died: list[BaseException] = []
    mailbox = Mailbox(Store(redis_server.url), "w", {"move": fail}, died.append)
    mailbox.start()
    push(redis_server, b"move e 1 o\nbatch")
    wait_until("it died", lambda: died, 5)
    assert isinstance(died[0], ZeroDivisionError)
    mailbox.stop()
