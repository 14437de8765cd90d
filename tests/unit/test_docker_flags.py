"""``LAMBDA_DOCKER_FLAGS``: each flag, and what is refused with which words."""

from pathlib import Path

import pytest

from workers.docker_flags import Flags, parse_flags


def test_every_flag_is_understood(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nFROM=file\nOVER=file\n\n")
    found = parse_flags(
        f"-e OVER=line --env B='two words' --env-file {tmp_path}/env -v /a:/b -v /c:/d:ro -p 8080:80 -p 127.0.0.2::53/udp "
        "--add-host db:10.0.0.1 --label a=b --ulimit nofile=10:20 --ulimit core=0 --user 1:2 --platform linux/arm64 "
        "--privileged --network other"
    )
    assert found == Flags(
        environment={"FROM": "file", "OVER": "line", "B": "two words"},
        mounts=(("/c", "/d"),),
        writable_mounts=(("/a", "/b"),),
        ports={"80/tcp": (("127.0.0.1", "8080"),), "53/udp": (("127.0.0.2", ""),)},
        hosts=("db:10.0.0.1",),
        labels={"a": "b"},
        ulimits=(("nofile", 10, 20), ("core", 0, 0)),
        user="1:2",
        platform="linux/arm64",
        privileged=True,
        network="other",
    )
    assert found.fixed_port


def test_nothing_and_a_free_port() -> None:
    assert parse_flags("") == Flags()
    assert not parse_flags("-p 80").fixed_port


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--rm", "has '--rm', which is not supported; valid are -e -v -p"),
        ("-e", "expected one argument"),
        ("-e NAME", "has -e NAME: must be NAME=value"),
        ("-v /a", "has -v /a: must be HOST-PATH:/container/path"),
        ("-v /a:b", "must be HOST-PATH:/container/path"),
        ("-p x", "has -p x: must be"),
        ("-p 80/icmp", "must be"),
        ("--add-host db", "must be NAME:ADDRESS"),
        ("--ulimit nofile", "must be NAME=SOFT"),
        ("--env-file /nowhere", "can't be read"),
        ("-e 'a", "is not a line of flags"),
    ],
)
def test_mistakes_in_flags_are_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        parse_flags(text)
    assert words in str(caught.value)
