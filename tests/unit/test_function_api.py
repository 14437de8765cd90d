"""Forwarding of functions' calls: what one environment may have under way, and that everything is answered."""

import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.services.redis import RedisServer
from tests.services.waiting import wait_until
from workers.environments.environment import Environment
from workers.function_api import PER_ENVIRONMENT, FunctionApi, _target
from workers.link.answers import ApiRequest
from workers.link.loop_thread import LoopThread
from workers.redis_client import Store


def _loop_died(error: BaseException) -> None:
    raise AssertionError from error


def test_one_environment_has_so_many_calls_under_way(redis_server: RedisServer) -> None:
    loop = LoopThread(_loop_died)
    loop.start()
    answers: list[int] = []

    def respond(_stream: int, status: int, *_: Any) -> None:
        answers.append(status)

    def environment(name: str) -> Environment:
        spec = SimpleNamespace(account="000000000000", region="us-east-1", function="f")
        relay = SimpleNamespace(link=SimpleNamespace(respond=respond))
        return cast("Environment", SimpleNamespace(id=name, spec=spec, relay=relay))

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        api = FunctionApi(f"http://127.0.0.1:{port}", Store(redis_server.url), loop, threads=4)
        busy, other = environment("a"), environment("b")
        for stream in range(PER_ENVIRONMENT + 3):
            api.forward(busy, ApiRequest(stream, "GET", "/x", [], b""))
        api.forward(other, ApiRequest(0, "GET", "/x", [], b""))
        assert answers == [429] * 3
        connections = [silent.accept()[0] for _ in range(4)]
        for connection in connections:
            connection.close()
        wait_until("four more are under way", lambda: len(answers) == 7)
        for _ in range(PER_ENVIRONMENT + 1 - 4):
            silent.accept()[0].close()
        wait_until("all are answered", lambda: len(answers) == PER_ENVIRONMENT + 4)
        assert answers[3:] == [503] * (PER_ENVIRONMENT + 1)
        assert not api._requests
        assert api._body_bytes == 0
    api.close()
    loop.stop()


def test_an_answer_goes_to_the_link_that_its_request_came_by(redis_server: RedisServer) -> None:
    """With docker-exec the next invocation's relay is another one, which knows nothing of the request."""
    loop = LoopThread(_loop_died)
    loop.start()
    answered: list[str] = []

    def relay(name: str) -> SimpleNamespace:
        return SimpleNamespace(link=SimpleNamespace(respond=lambda *_: answered.append(name)))

    spec = SimpleNamespace(account="000000000000", region="us-east-1", function="f")
    environment = SimpleNamespace(id="a", spec=spec, relay=relay("first"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = FunctionApi(f"http://127.0.0.1:{silent.getsockname()[1]}", Store(redis_server.url), loop, threads=1)
        api.forward(cast("Environment", environment), ApiRequest(1, "GET", "/x", [], b""))
        connection = silent.accept()[0]
        environment.relay = relay("second")
        connection.close()
        wait_until("the request is answered", lambda: answered)
    assert answered == ["first"]
    api.close()
    loop.stop()


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("/2015-03-31/functions/000000000000%3afunction%3ax", "/2015-03-31/functions/000000000000%3Afunction%3Ax"),
        ("/a b?x=%3d/../y//z#f", "/a%20b?x=%3D/../y//z"),
        ("/\u65e5", "/%E6%97%A5"),
        ("/%zz", "/%25zz"),
        ("/functions/", "/functions/"),
    ],
)
def test_the_target_that_is_signed_is_the_one_that_is_sent(text: str, sent: str) -> None:
    assert _target(text) == sent


@pytest.mark.parametrize("text", ["*", "", "@x", "http://a/b", "//a", "/a//b", "/a/../b", "/a/%2e%2E/b", "/a/.", "/.."])
def test_targets_that_others_may_read_differently_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="request's"):
        _target(text)
