"""The image of each runtime."""

import pytest

from workers.images.names import image_of, read_mapping

#: Every runtime that AWS has had, and the name of its image below AWS's registry.
NAMES = {
    "dotnet10": "dotnet:10",
    "dotnet6": "dotnet:6",
    "dotnet8": "dotnet:8",
    "dotnetcore2.1": "dotnet:2.1",
    "dotnetcore3.1": "dotnet:3.1",
    "go1.x": "go:1",
    "java11": "java:11",
    "java17": "java:17",
    "java21": "java:21",
    "java25": "java:25",
    "java8": "java:8",
    "java8.al2": "java:8.al2",
    "nodejs10.x": "nodejs:10",
    "nodejs12.x": "nodejs:12",
    "nodejs18.x": "nodejs:18",
    "nodejs20.x": "nodejs:20",
    "nodejs22.x": "nodejs:22",
    "nodejs24.x": "nodejs:24",
    "provided": "provided:alami",
    "provided.al2": "provided:al2",
    "provided.al2023": "provided:al2023",
    "python2.7": "python:2.7",
    "python3.10": "python:3.10",
    "python3.13": "python:3.13",
    "python3.14": "python:3.14",
    "python3.6": "python:3.6",
    "ruby2.7": "ruby:2.7",
    "ruby3.3": "ruby:3.3",
    "ruby3.4": "ruby:3.4",
}


@pytest.mark.parametrize("runtime", NAMES)
def test_every_runtime_has_the_image_that_aws_publishes(runtime: str) -> None:
    assert image_of(runtime) == f"public.ecr.aws/lambda/{NAMES[runtime]}"


@pytest.mark.parametrize("registry", ["mirror.example:5000/aws", "mirror.example:5000/aws/"])
def test_another_registry_keeps_the_names(registry: str) -> None:
    assert image_of("python3.13", registry) == "mirror.example:5000/aws/python:3.13"


@pytest.mark.parametrize(
    "runtime", ["", "python", "python3", "python3.13 ", "cobol1", "nodejs20.x/..", "java", "provided.al3"]
)
def test_an_unknown_runtime_is_refused_by_name(runtime: str) -> None:
    with pytest.raises(ValueError, match="runtime .* is not known") as raised:
        image_of(runtime)
    assert repr(runtime) in str(raised.value)


def test_a_mapping_comes_before_the_registry() -> None:
    mapping = {"python3.13": "my/python:latest"}
    assert image_of("python3.13", "r", mapping) == "my/python:latest"
    assert image_of("python3.11", "r", mapping) == "r/python:3.11"


def test_a_mapping_may_name_runtimes_that_aws_does_not_have() -> None:
    assert image_of("cobol1", "r", {"cobol1": "my/cobol"}) == "my/cobol"


def test_a_pattern_is_for_all_runtimes() -> None:
    assert image_of("nodejs20.x", "r", "my/lambda-<runtime>:1") == "my/lambda-nodejs20.x:1"


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        ("", None),
        (' {"python3.13": "a:b"} ', {"python3.13": "a:b"}),
        ("{}", {}),
        ("my/<runtime>:x", "my/<runtime>:x"),
    ],
)
def test_the_setting_is_an_object_or_a_pattern(text: str, mapping: object) -> None:
    assert read_mapping(text) == mapping


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("my/image", "pattern with <runtime>"),
        ("my <runtime>", "pattern with <runtime>"),
        ('["python3.13"]', "pattern with <runtime>"),
        ('{"python3.13": }', "no valid JSON"),
        ('{"python3.13": 1}', "python3.13 must be mapped"),
        ('{"python3.13": ""}', "python3.13 must be mapped"),
    ],
)
def test_another_value_of_the_setting_is_refused_with_what_is_valid(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_mapping(text)
