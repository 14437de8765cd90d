"""Messages between dispatcher and workers: round trips, versions, and bytes that are none."""

import contextlib
import string
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.contract.messages import (
    LANES,
    OLDEST_OUTCOME,
    VERSION,
    Batch,
    FunctionSpec,
    Invocation,
    Outcome,
    VersionMismatch,
    decode_batch,
    decode_outcome,
    encode,
    encode_batch,
)

SPEC = FunctionSpec(
    account="000000000000",
    region="us-east-1",
    function="echo",
    version="$LATEST",
    runtime="python3.12",
    handler="index.handler",
    timeout_s=3,
    memory_mb=128,
    ephemeral_mb=512,
    environment={"NAME": "wert ä"},
    code_sha256="0" * 64,
    revision="r",
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
specs = st.builds(
    FunctionSpec,
    account=words,
    region=words,
    function=words,
    version=words,
    runtime=words,
    handler=words,
    timeout_s=st.integers(1, 900),
    memory_mb=st.integers(128, 10_240),
    ephemeral_mb=st.integers(512, 10_240),
    environment=st.dictionaries(words, words, max_size=4),
    code_sha256=st.text(string.hexdigits, min_size=64, max_size=64),
    hot_reload_path=words,
    architecture=st.sampled_from(["x86_64", "arm64"]),
    package_type=st.sampled_from(["Zip", "Image"]),
    log_group=words,
    revision=words,
)
invocations = st.builds(
    Invocation,
    request_id=words,
    attempt=st.integers(1, 1 << 31),
    lane=st.sampled_from(LANES),
    invoked_arn=words,
    payload=st.binary(max_size=200),
    payload_key=words,
    counted_in=words,
    claim_by_ms=st.integers(0, 1 << 52),
    reply_to=words,
    trace_id=words,
    client_context=words,
    cognito_identity=words,
)
outcomes = st.builds(
    Outcome,
    request_id=words,
    attempt=st.integers(1, 1 << 31),
    kind=st.sampled_from(["success", "function_error", "system_error"]),
    payload=st.binary(max_size=200),
    error_type=words,
    message=words,
    log_tail=st.binary(max_size=200),
    version=words,
    worker=words,
    environment=words,
    duration_ms=st.floats(0, 1e9),
    init_ms=st.floats(0, 1e9),
    memory_used_mb=st.integers(0, 1 << 20),
)


def an_invocation() -> Invocation:
    return Invocation(request_id="i", lane="sync", invoked_arn="arn", claim_by_ms=1, reply_to="everwarm:replies:d")


@given(specs, words, st.lists(invocations, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_batch_is_what_was_sent(spec: FunctionSpec, url: str, sent: list[Invocation]) -> None:
    batch = decode_batch(encode_batch(VERSION, encode(spec), url, sent))
    assert batch == Batch(v=VERSION, spec=spec, code_url=url, invocations=sent)
    assert decode_batch(encode(batch)) == batch


@given(outcomes)
@settings(max_examples=50, deadline=None)
def test_an_outcome_is_what_was_sent(outcome: Outcome) -> None:
    assert decode_outcome(encode(outcome)) == outcome


@pytest.mark.parametrize("version", [VERSION - 1, VERSION])
def test_this_version_and_the_one_before_are_read(version: int) -> None:
    assert decode_batch(encode_batch(version, encode(SPEC), "", [an_invocation()])).v == version
    outcome = Outcome(v=version, request_id="i", attempt=1, kind="success")
    assert decode_outcome(encode(outcome)) == outcome


@pytest.mark.parametrize("version", [VERSION - 2, VERSION + 1, 1 << 40])
def test_other_versions_are_named(version: int) -> None:
    with pytest.raises(
        VersionMismatch, match=f"version {version}; this process reads {VERSION - 1} to {VERSION}"
    ) as caught:
        decode_batch(encode_batch(version, encode(SPEC), "", [an_invocation()]))
    assert caught.value.found == version


def test_outcomes_of_all_versions_with_the_same_words_are_read() -> None:
    for version in range(OLDEST_OUTCOME, VERSION + 1):
        outcome = Outcome(v=version, request_id="i", attempt=1, kind="success")
        assert decode_outcome(encode(outcome)) == outcome
    for version in (OLDEST_OUTCOME - 1, VERSION + 1, 1 << 40):
        with pytest.raises(
            VersionMismatch, match=f"version {version}; this process reads {OLDEST_OUTCOME} to {VERSION}"
        ):
            decode_outcome(encode(Outcome(v=version, request_id="i", attempt=1, kind="success")))


@pytest.mark.parametrize(
    "message", [{"v": VERSION + 1}, {"v": VERSION + 1, "spec": 7, "request_id": ["another", "shape"]}]
)
def test_a_newer_message_of_another_shape_is_known_by_its_version(message: dict[str, Any]) -> None:
    data = msgspec.msgpack.encode(message)
    with pytest.raises(VersionMismatch):
        decode_batch(data)
    with pytest.raises(VersionMismatch):
        decode_outcome(data)


def test_fields_that_a_newer_writer_of_this_version_added_are_passed_over() -> None:
    message = {
        **msgspec.to_builtins(Outcome(request_id="i", attempt=1, kind="success")),
        "v": VERSION,
        "new": {"a": [1]},
    }
    assert decode_outcome(msgspec.msgpack.encode(message)).request_id == "i"


def test_the_version_leads_every_message() -> None:
    outcome = encode(Outcome(v=VERSION, request_id="i", attempt=1, kind="system_error", message="m"))
    batch = encode_batch(VERSION, encode(SPEC), "url", [an_invocation()])
    for data in (outcome, batch):
        assert next(iter(msgspec.msgpack.decode(data))) == "v"


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_message(data: bytes) -> None:
    for decode in (decode_batch, decode_outcome):
        with pytest.raises((VersionMismatch, msgspec.DecodeError)):
            decode(data)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_messages_never_do_more_than_raise(data: st.DataObject) -> None:
    whole = bytearray(encode_batch(VERSION, encode(SPEC), "", [an_invocation()]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(VersionMismatch, msgspec.DecodeError):
        decode_batch(cut)


def test_secrets_of_a_spec_do_not_change_its_arn() -> None:
    assert SPEC.arn == "arn:aws:lambda:us-east-1:000000000000:function:echo"
