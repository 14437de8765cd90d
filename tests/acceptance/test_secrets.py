"""Nothing that is written holds a payload or the value of a function's variable: logs on the loudest level, files, and
the readable part of the messages in Redis."""

import json
from collections.abc import Callable

from tests.services.code import zip_of
from tests.services.local import python_runtime
from tests.services.stack import Stack

VARIABLE = "planted-value-of-a-variable"
PAYLOAD = "planted-word-of-a-payload"
CODE = """
import os

def handler(event, context):
    assert os.environ["SECRET"] and event["secret"]
    if event.get("exit"):
        os._exit(3)
    if event.get("fail"):
        raise ValueError("asked for")
    return {"done": True}
"""
LARGE = "x" * 100_000


def test_planted_secrets_are_nowhere(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(DEBUG="1")
    client = stack.client()
    with stack.redis.client.monitor() as monitor:  # type: ignore[no-untyped-call]
        client.create_function(
            FunctionName="careful",
            Runtime=python_runtime(),
            Handler="index.handler",
            Role="arn:aws:iam::000000000000:role/r",
            Code={"ZipFile": zip_of(index__py=CODE)},
            Environment={"Variables": {"SECRET": VARIABLE}},
        )
        client.get_waiter("function_active_v2").wait(FunctionName="careful", WaiterConfig={"Delay": 1})
        for event in ({}, {"fail": 1}, {"exit": 1}, {"large": LARGE}):
            client.invoke(FunctionName="careful", Payload=json.dumps({"secret": PAYLOAD, **event}).encode())
        client.update_function_configuration(FunctionName="careful", Timeout=5)
        client.delete_function(FunctionName="careful")
        stack.redis.client.set("everwarm:end", "1", ex=5)
        messages = []
        while not (command := monitor.next_command()["command"]).startswith("SET everwarm:end"):
            messages += _messages(command)
    assert len(messages) >= 4
    for message in messages:
        message.pop("body")
        assert not _secrets(json.dumps(message))
    for path in stack.data.rglob("*"):
        # The catalog has to keep variables.
        if path.is_file() and ".db" not in path.name:
            assert not _secrets(path.read_text(errors="replace")), path


def _messages(command: str) -> list[dict[str, object]]:
    """The Celery message in a command as MONITOR writes it."""
    begin = command.find('{"body"')
    if begin < 0:
        return []
    document, _ = json.JSONDecoder().raw_decode(command[begin:])
    return [document]


def _secrets(text: str) -> list[str]:
    return [secret for secret in (VARIABLE, PAYLOAD) if secret in text]
