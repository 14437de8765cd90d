"""Constraints of the model, in AWS's words."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.wire.errors import AwsError
from dispatcher.wire.model import operations, service
from dispatcher.wire.validate import compile_pattern, validate

CREATE: dict[str, Any] = {
    "FunctionName": "f",
    "Role": "arn:aws:iam::123456789012:role/r",
    "Code": {"ZipFile": b"x"},
}


def problem(operation: str, request: dict[str, Any]) -> AwsError:
    with pytest.raises(AwsError) as error:
        validate(operations()[operation], request)
    return error.value


def create_problem(**members: Any) -> str:
    error = problem("CreateFunction", {**CREATE, **members})
    assert error.code == "ValidationException"
    assert error.status == 400
    return error.message


def test_a_good_request_passes() -> None:
    validate(operations()["CreateFunction"], {**CREATE, "Runtime": "python3.12", "Handler": "a.b", "Layers": []})


def test_missing_members_are_named() -> None:
    message = problem("CreateFunction", {}).message
    assert message.startswith("3 validation errors detected: ")
    for name in ("functionName", "role", "code"):
        assert f"Value null at '{name}' failed to satisfy constraint: Member must not be null" in message


def test_number_out_of_range() -> None:
    assert create_problem(MemorySize=1) == (
        "1 validation error detected: Value '1' at 'memorySize' failed to satisfy constraint: "
        "Member must have value greater than or equal to 128"
    )
    assert "Member must have value less than or equal to 900" in create_problem(Timeout=901)
    assert "Member must have value less than or equal to 10240" in create_problem(MemorySize=10_241)


def test_enum_and_list_are_collapsed() -> None:
    assert create_problem(Architectures=["x86"]) == (
        "1 validation error detected: Value '[x86]' at 'architectures' failed to satisfy constraint: "
        "Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64], Member must not be null]"
    )
    layers = create_problem(Layers=["x"])
    assert "Value '[x]' at 'layers' failed to satisfy constraint: Member must satisfy constraint: [" in layers
    rest = layers.partition("constraint: [")[2]
    assert rest.startswith("Member must have length less than or equal to 2048, Member must have length greater than")
    assert rest.endswith(", Member must not be null]")


def test_null_in_a_list() -> None:
    assert "Value '[null]' at 'layers'" in create_problem(Layers=[None])


def test_environment_values_are_never_echoed() -> None:
    message = create_problem(Environment={"Variables": {"bad-name": "planted-secret"}})
    assert message == (
        "1 validation error detected: Value at 'environment.variables' failed to satisfy constraint: "
        "Map keys must satisfy constraint: [Member must satisfy regular expression pattern: "
        "[a-zA-Z]([a-zA-Z0-9_])+, Member must not be null]"
    )


def test_an_environment_value_may_not_be_null() -> None:
    message = create_problem(Environment={"Variables": {"AB": None}})
    assert "Value at 'environment.variables'" in message
    assert "Map value must satisfy constraint: [Member must not be null]" in message


def test_nested_structures_are_joined_by_dots() -> None:
    assert "at 'ephemeralStorage.size' failed" in create_problem(EphemeralStorage={"Size": 1})
    assert "at 'fileSystemConfigs.1.member.arn' failed" in create_problem(
        FileSystemConfigs=[{"Arn": "x", "LocalMountPath": "/mnt/a"}]
    )


def test_several_are_joined_by_semicolons() -> None:
    message = create_problem(MemorySize=1, Timeout=0)
    assert message.startswith("2 validation errors detected: ")
    assert message.count("; Value '") == 1


def test_a_bare_name_has_64_characters_at_most() -> None:
    error = problem("CreateFunction", {**CREATE, "FunctionName": "x" * 65})
    assert error.code == "InvalidParameterValueException"
    assert "Member must have length less than or equal to 64" in error.message
    arn = f"arn:aws:lambda:eu-west-1:123456789012:function:{'x' * 65}"
    validate(operations()["CreateFunction"], {**CREATE, "FunctionName": arn})


def test_an_unknown_runtime_is_refused_with_the_known_ones() -> None:
    error = problem("CreateFunction", {**CREATE, "Runtime": "cobol"})
    assert error.code == "InvalidParameterValueException"
    assert error.message.startswith("Value cobol at 'runtime' failed to satisfy constraint: Member must satisfy enum")
    assert error.message.endswith("] or be a valid ARN")


def test_tags_take_every_script_and_no_control_characters() -> None:
    tag = operations()["TagResource"]
    good = "Grüße \u00a0大家 ٣_.:/=+-@"
    arn = "arn:aws:lambda:eu-west-1:123456789012:function:f"
    validate(tag, {"Resource": arn, "Tags": {good: good}})
    for bad in ("a\tb", "a\nb", "a;b"):
        with pytest.raises(AwsError):
            validate(tag, {"Resource": arn, "Tags": {"k": bad}})


def test_a_newline_at_the_end_matches_no_pattern() -> None:
    problem("GetFunction", {"FunctionName": "f\n"})


def test_only_ascii_digits_are_digits() -> None:
    problem("AddPermission", {"FunctionName": "f", "StatementId": "s", "Action": "lambda:*", "Principal": "\u0661 \t"})


def test_every_pattern_of_the_model_compiles() -> None:
    shapes = (service().shape_for(name) for name in service().shape_names)
    patterns = [shape.metadata["pattern"] for shape in shapes if "pattern" in shape.metadata]
    assert len(patterns) > 50
    for pattern in patterns:
        compile_pattern(pattern)


@settings(max_examples=30, deadline=2000)
@given(st.text(max_size=2048), st.integers(1, 200))
def test_long_names_are_judged_quickly(text: str, times: int) -> None:
    with pytest.raises(AwsError):
        validate(operations()["GetFunction"], {"FunctionName": f"!{text * times}"})
