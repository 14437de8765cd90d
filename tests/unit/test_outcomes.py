"""How an attempt's end is told, against AWS's recorded answers."""

import json
import signal

import pytest

from workers.execution.outcomes import end_lines, ending, exit_reason, signal_words, start_line, used_mb
from workers.link.answers import Answer, Exited, FunctionError, InitFailed, Response, TimedOut

ID = "0f5a2b5e-0000-4000-8000-000000000001"
LIMIT = 6_291_556


def response(**changes: object) -> Response:
    fields: dict[str, object] = {
        "payload": b'{"a":1}',
        "content_type": "application/json",
        "streaming": False,
        "too_large": False,
        "memory_kb": 1,
    }
    return Response(**(fields | changes))  # type: ignore[arg-type]


def exited(**changes: object) -> Exited:
    fields: dict[str, object] = {"exit_code": None, "signal": None, "oom": False, "init_over": True, "memory_kb": 1}
    return Exited(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (
            TimedOut(1, 1),
            f'{{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: {ID} Error: Task timed out after 1.00 seconds"}}',
        ),
        (
            exited(exit_code=0),
            (
                f'{{"errorType":"Runtime.ExitError","errorMessage":"RequestId: {ID} Error: '
                'Runtime exited without providing a reason"}'
            ),
        ),
        (
            exited(exit_code=127),
            (
                f'{{"errorType":"Runtime.ExitError","errorMessage":"RequestId: {ID} Error: '
                'Runtime exited with error: exit status 127"}'
            ),
        ),
        (
            exited(signal=signal.SIGKILL),
            (
                f'{{"errorType":"Runtime.ExitError","errorMessage":"RequestId: {ID} Error: '
                'Runtime exited with error: signal: killed"}'
            ),
        ),
        (
            response(too_large=True, payload=b""),
            (
                '{"errorType":"Function.ResponseSizeTooLarge","errorMessage":'
                '"Response payload size exceeded maximum allowed payload size (6291556 bytes)."}'
            ),
        ),
    ],
)
def test_lambda_words_what_the_function_could_not(answer: Answer | TimedOut, body: str) -> None:
    found = ending(answer, ID, LIMIT, 512)
    assert not found.success
    assert found.body.decode() == body
    assert found.error_type == json.loads(body)["errorType"]


def test_what_the_runtime_posted_stays_as_it_is() -> None:
    assert ending(response(), ID, LIMIT, 512).body == b'{"a":1}'
    error = b'{"errorMessage":"x","errorType":"E","requestId":"","stackTrace":[]}'
    assert ending(FunctionError(error, "E", too_large=False, memory_kb=1), ID, LIMIT, 512).body == error
    assert ending(InitFailed(error, "E", 1), ID, LIMIT, 512).body == error


def test_an_error_that_is_too_large_is_told_as_such() -> None:
    found = ending(FunctionError(b"", "E", too_large=True, memory_kb=1), ID, LIMIT, 512)
    assert found.error_type == "Function.ResponseSizeTooLarge"


def test_a_streaming_response_that_failed_midway_is_an_error() -> None:
    found = ending(response(error_type="Error", payload=b"part"), ID, LIMIT, 512)
    assert (found.success, found.error_type, found.body) == (False, "Error", b"part")


def test_signals_have_gos_names() -> None:
    assert signal_words(signal.SIGSEGV) == "segmentation fault"
    assert signal_words(64) == "signal 64"
    assert exit_reason(exited(signal=signal.SIGTERM), 512) == "Runtime exited with error: signal: terminated"
    full = "No space left on device: /tmp holds more than 600 MB (EphemeralStorage)"
    assert exit_reason(exited(signal=signal.SIGKILL, disk_full=True), 600) == full
    assert exit_reason(exited(error="fork/exec /x: permission denied"), 512) == "fork/exec /x: permission denied"


def test_log_lines_are_awss() -> None:
    assert start_line(ID, "$LATEST") == f"START RequestId: {ID} Version: $LATEST\n"
    assert end_lines(ID, 1.234, 128, 38, 0.0) == (
        f"END RequestId: {ID}\nREPORT RequestId: {ID}\tDuration: 1.23 ms\tBilled Duration: 2 ms\t"
        "Memory Size: 128 MB\tMax Memory Used: 38 MB\t\n"
    )
    assert end_lines(ID, 1.0, 128, 38, 98.764).endswith("Max Memory Used: 38 MB\tInit Duration: 98.76 ms\t\n")


def test_memory_is_rounded_up() -> None:
    assert [used_mb(kb) for kb in (0, 1, 1024, 1025)] == [1, 1, 1, 2]
