"""Versions and aliases run exactly their own code and configuration."""

from collections import Counter

import pytest

from tests.services.functions import Functions
from tests.services.waiting import wait_until

SOURCE = """
import os
def handler(event, context):
    return ["{word}", os.environ.get("WORD"), context.function_version, context.memory_limit_in_mb,
            os.environ["AWS_LAMBDA_FUNCTION_VERSION"], context.invoked_function_arn.split(":")[7:], context.log_stream_name]
"""


def source(word: str) -> str:
    """A function that tells which code and configuration it has."""
    return SOURCE.format(word=word)


@pytest.fixture
def versioned(functions: Functions) -> str:
    """A function with versions 1 and 2, and a third state as $LATEST."""
    name = functions.python(source("one"), Environment={"Variables": {"WORD": "first"}})
    functions.client.publish_version(FunctionName=name)
    functions.update(name, source("two"))
    functions.configure(name, Environment={"Variables": {"WORD": "second"}}, MemorySize=256)
    functions.client.publish_version(FunctionName=name)
    functions.update(name, source("latest"))
    functions.configure(name, Environment={"Variables": {}}, MemorySize=128)
    return name


def test_each_version_its_own(functions: Functions, versioned: str) -> None:
    for _ in range(2 if functions.keeps_environment else 1):  # warm as well as cold
        for qualifier, expected in (
            ("1", ["one", "first", "1", "128", "1", ["1"]]),
            ("2", ["two", "second", "2", "256", "2", ["2"]]),
            ("$LATEST", ["latest", None, "$LATEST", "128", "$LATEST", ["$LATEST"]]),
        ):
            answer = functions.invoke(versioned, {}, Qualifier=qualifier)
            assert answer.json[:6] == expected
            assert answer.version == qualifier
            assert f"Version: {qualifier}\n" in answer.log
            assert f"[{qualifier}]" in answer.json[6]
    assert functions.invoke(versioned, {}).json[:6] == ["latest", None, "$LATEST", "128", "$LATEST", []]
    assert functions.invoke(f"{versioned}:1", {}).json[0] == "one"
    assert functions.invoke(functions.arn(versioned, "2"), {}).json[0] == "two"


def test_a_version_without_a_change_of_its_own(functions: Functions) -> None:
    """Version and $LATEST have the same code and configuration, and still are two."""
    name = functions.python(source("same"))
    functions.client.publish_version(FunctionName=name)
    assert functions.invoke(name, {}).json[2] == "$LATEST"
    assert functions.invoke(name, {}, Qualifier="1").json[2] == "1"
    assert functions.invoke(name, {}).json[4] == "$LATEST"


def test_an_alias_runs_what_it_points_to(functions: Functions, versioned: str) -> None:
    functions.client.create_alias(FunctionName=versioned, Name="live", FunctionVersion="1")
    answer = functions.invoke(versioned, {}, Qualifier="live")
    assert answer.json[:6] == ["one", "first", "1", "128", "1", ["live"]]
    assert answer.version == "1"
    functions.client.update_alias(FunctionName=versioned, Name="live", FunctionVersion="2")
    answer = functions.invoke(versioned, {}, Qualifier="live")
    assert (answer.json[0], answer.version, answer.json[5]) == ("two", "2", ["live"])
    assert functions.invoke(f"{versioned}:live", {}).json[0] == "two"
    functions.client.delete_alias(FunctionName=versioned, Name="live")
    assert functions.refused(versioned, {}, Qualifier="live")[:2] == ("ResourceNotFoundException", 404)


def test_an_aliass_weights_share_the_calls(functions: Functions, versioned: str) -> None:
    functions.client.create_alias(
        FunctionName=versioned,
        Name="canary",
        FunctionVersion="1",
        RoutingConfig={"AdditionalVersionWeights": {"2": 0.5}},
    )
    seen: Counter[str] = Counter()

    def enough() -> bool:
        answer = functions.invoke(versioned, {}, Qualifier="canary")
        assert answer.json[0] == {"1": "one", "2": "two"}[str(answer.version)]
        assert answer.json[5] == ["canary"]
        seen[str(answer.version)] += 1
        # Where each call is a cold start it is enough to see both.
        return sum(seen.values()) >= 60 or (not functions.keeps_process and len(seen) == 2)

    wait_until("enough calls are answered", enough, 60, every_s=0)
    assert set(seen) == {"1", "2"}
    assert 10 < seen["1"] < 50 or not functions.keeps_process, seen  # out of this once in 200 million runs
    functions.client.update_alias(
        FunctionName=versioned, Name="canary", RoutingConfig={"AdditionalVersionWeights": {"2": 1.0}}
    )
    assert {functions.invoke(versioned, {}, Qualifier="canary").version for _ in range(functions.times(10))} == {"2"}


def test_a_deleted_version_is_gone(functions: Functions, versioned: str) -> None:
    assert functions.invoke(versioned, {}, Qualifier="1").version == "1"
    functions.client.delete_function(FunctionName=versioned, Qualifier="1")
    assert functions.refused(versioned, {}, Qualifier="1")[:2] == ("ResourceNotFoundException", 404)
    assert functions.invoke(versioned, {}, Qualifier="2").version == "2"
