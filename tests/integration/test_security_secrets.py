"""Planted secrets are only where they belong: variables in the catalog, what a function prints in its own log."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.functions import Functions
from tests.services.stack import Stack
from tests.services.waiting import wait_until

VARIABLE, PAYLOAD, LARGE, CONTEXT, RESPONSE, ERROR, PRINTED, CODE = WORDS = tuple(
    f"planted-{word}-5f0c"
    for word in ("variable", "payload", "large", "context", "response", "error", "printed", "code")
)
SOURCE = f"""
import os
# {CODE}
def handler(event, context):
    assert os.environ["SECRET"]
    if event.get("print"):
        print("planted" "-printed" "-5f0c")
    if event.get("fail"):
        raise ValueError("planted" "-error" "-5f0c")
    if event.get("exit"):
        os._exit(3)
    if event.get("hang"):
        while True:
            pass
    return "planted" "-response" "-5f0c"
"""


def planted(data: bytes | str) -> set[str]:
    """The words in it, in the ways that programs write them."""
    text = data.decode("latin-1") if isinstance(data, bytes) else data
    return {
        word
        for word in WORDS
        if word in text or base64.b64encode(word.encode()).decode()[:-4] in text or word.encode().hex() in text
    }


@pytest.fixture(scope="module")
def used() -> Iterator[tuple[Stack, list[dict[str, Any]], str]]:
    """A stack on its loudest level that has seen every secret, with the messages and the function it ran."""
    stack = Stack({"DEBUG": "1"})
    try:
        stack.start()
        functions = Functions(stack)
        with stack.redis.client.monitor() as monitor:  # type: ignore[no-untyped-call]
            name = functions.python(SOURCE, Environment={"Variables": {"SECRET": VARIABLE}}, Timeout=3)
            context = base64.b64encode(json.dumps({"custom": {"a": CONTEXT}}).encode()).decode()
            for event in ({}, {"print": 1}, {"fail": 1}, {"exit": 1}, {"hang": 1}, {"large": LARGE + "x" * 100_000}):
                functions.invoke(name, {"secret": PAYLOAD, **event}, ClientContext=context)
            functions.refused(name, Payload=f'{{"broken": "{PAYLOAD}'.encode())
            functions.refused("nobody", {"secret": PAYLOAD}, ClientContext=context)
            functions.refused(name, {"secret": PAYLOAD}, Qualifier="9")
            stack.redis.client.set("everwarm:end", "1", ex=1)
            messages = []
            while not (command := monitor.next_command()["command"]).startswith("SET everwarm:end"):
                begin = command.find('{"body"')
                if begin >= 0:
                    messages.append(json.JSONDecoder().raw_decode(command[begin:])[0])
        yield stack, messages, name
    finally:
        stack.close()


Used = tuple[Stack, list[dict[str, Any]], str]


def test_headers_of_messages_tell_no_secret(used: Used) -> None:
    _, messages, _ = used
    bodies = [message.pop("body") for message in messages]
    assert len(bodies) >= 6
    assert any(planted(base64.b64decode(body)) for body in bodies), "the test looks at the right messages"
    for message in messages:
        assert message["headers"]["argsrepr"]
        assert planted(json.dumps(message)) == set()


def test_the_servers_log_tells_no_secret(used: Used) -> None:
    stack, _, _ = used
    assert "worker ready" in stack.log_text()
    # On this level what functions print is shown (LAMBDA_TRUNCATE_STDOUT), and nothing else of them.
    assert planted(stack.log_text()) == {PRINTED, ERROR}
    assert "SECRET" not in stack.log_text()


def test_secrets_are_in_no_file_but_those_they_belong_in(used: Used) -> None:
    """The catalog has the variable, the store the code, the function's log what the function wrote."""
    stack, _, name = used
    log = stack.data / "logs"
    wait_until("the log is stored", lambda: PRINTED in stack.get(f"/_everwarm/logs/{name}")[1].decode())

    def allowed(path: Path) -> set[str]:
        if ".db" in path.name:
            return {VARIABLE}
        if path == stack.log or log in path.parents:
            return {PRINTED, ERROR}
        return {CODE} if "code" in path.relative_to(stack.data).parts else set()

    for path in stack.data.rglob("*"):
        if path.is_file():
            assert planted(path.read_bytes()) <= allowed(path), path
            assert path == stack.log or path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0, (
                path
            )


def test_redis_has_no_secret_afterwards(used: Used) -> None:
    """Nothing stays but what a log's reader has not fetched yet."""
    stack, _, _ = used

    def left() -> dict[str, set[str]]:
        found = {}
        for key in stack.redis.client.scan_iter(count=1000):
            words = planted(stack.redis.client.dump(key) or b"")
            if words:
                found[key.decode()] = words
        return found

    wait_until("Redis is clean", lambda: not left(), 5)


def test_pages_tell_no_secret(used: Used) -> None:
    stack, _, name = used
    for path in ("health", "live", "ready", "environments", "metrics", "nothing"):
        status, body = stack.get(f"/_everwarm/{path}")
        assert status in {200, 404}
        assert planted(body) == set(), path
    assert planted(stack.get(f"/_everwarm/logs/{name}")[1]) <= {PRINTED, ERROR}
