"""What the caller gets for each way in which a handler can end: AWS's table, byte by byte, and the call after it."""

import re
from typing import Any

import pytest

from tests.services.calls import wait_until_handed_back
from tests.services.functions import Family, Functions

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
FAMILIES: tuple[Family, ...] = ("python", "node", "provided")
REPORT = re.compile(
    r"REPORT RequestId: (?P<id>\S+)\tDuration: (?P<ms>\d+\.\d\d) ms\tBilled Duration: (?P<billed>\d+) ms\t"
    r"Memory Size: (?P<size>\d+) MB\tMax Memory Used: (?P<used>\d+) MB\t(Init Duration: (?P<init>\d+\.\d\d) ms\t)?"
    r"(Status: (?P<status>\w+)\t)?\n"
)


def report_of(log: str) -> dict[str, str | None]:
    """The fields of the one REPORT line in a tail."""
    (found,) = REPORT.finditer(log)
    return found.groupdict()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_result_is_the_handlers_own_bytes(functions: Functions, family: Family) -> None:
    name = functions.sample("echo", family)
    answer = functions.invoke(name, {"a": [1, "ä"]})
    assert answer.status == 200
    assert answer.json == {"a": [1, "ä"]}
    assert answer.error is None
    assert answer.version == "$LATEST"
    assert answer.headers["content-type"] == "application/json"
    assert "x-amz-function-error" not in answer.headers
    assert UUID.fullmatch(answer.request_id)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_lines_carry_the_callers_request_id(functions: Functions, family: Family) -> None:
    name = functions.sample("echo", family, MemorySize=256)
    cold = functions.invoke(name, {})
    wait_until_handed_back(functions, name)
    warm = functions.invoke(name, {})
    for answer in (cold, warm):
        assert f"START RequestId: {answer.request_id} Version: $LATEST\n" in answer.log
        assert f"END RequestId: {answer.request_id}\nREPORT RequestId: {answer.request_id}\t" in answer.log
        report = report_of(answer.log)
        assert report["id"] == answer.request_id
        assert report["size"] == "256"
        assert int(report["billed"] or 0) >= float(report["ms"] or 0)
        assert 1 <= int(report["used"] or 0) <= 256
    assert report_of(cold.log)["init"] is not None
    assert (report_of(warm.log)["init"] is None) == functions.keeps_process
    assert warm.log.startswith("START ") or not functions.keeps_process
    assert cold.request_id != warm.request_id


def test_no_tail_without_asking_for_it(functions: Functions) -> None:
    name = functions.sample("echo")
    assert "x-amz-log-result" not in functions.invoke(name, {}, LogType=None).headers
    assert "x-amz-log-result" not in functions.invoke(name, {}, LogType="None").headers


def test_a_python_exception_is_a_function_error(functions: Functions) -> None:
    name = functions.sample("raises")
    answer = functions.invoke(name, {"message": "höchst “unusual”\n"})
    assert (answer.status, answer.error) == (200, "Unhandled")
    assert answer.headers["x-amz-function-error"] == "Unhandled"
    found = answer.json
    assert list(found) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert found["errorMessage"] == "höchst “unusual”\n"
    assert found["errorType"] == "ValueError"
    assert found["requestId"] == answer.request_id
    assert [re.sub(r'"[^"]*/', '"/', line) for line in found["stackTrace"]] == [
        '  File "/raises.py", line 9, in handler\n    inner(event.get("message", "on purpose"))\n',
        '  File "/raises.py", line 5, in inner\n    raise ValueError(message)\n',
    ]
    assert "[ERROR] ValueError: höchst" in answer.log


@pytest.mark.parametrize("entry", ["handler", "sync"])
def test_a_node_exception_is_a_function_error(functions: Functions, entry: str) -> None:
    answer = functions.invoke(functions.sample("raises", "node", entry), {"message": "on purpose"})
    assert (answer.status, answer.error) == (200, "Unhandled")
    found = answer.json
    assert list(found) == ["errorType", "errorMessage", "trace"]
    assert (found["errorType"], found["errorMessage"]) == ("RangeError", "on purpose")
    assert found["trace"][0] == "RangeError: on purpose"
    assert "raises.js:3:9" in found["trace"][1]


def test_what_nobody_catches_in_node(functions: Functions) -> None:
    rejected = functions.invoke(functions.sample("rejection", "node"), {})
    thrown = functions.invoke(functions.sample("rejection", "node", "exception"), {})
    assert (rejected.error, thrown.error) == ("Unhandled", "Unhandled")
    assert rejected.json["errorType"] == "Runtime.UnhandledPromiseRejection"
    assert rejected.json["errorMessage"] == "TypeError: nobody catches this"
    assert thrown.json["errorType"] == "TypeError"


def test_every_field_of_a_custom_error_is_kept(functions: Functions) -> None:
    answer = functions.invoke(functions.sample("fail", "provided"), {})
    assert (answer.status, answer.error) == (200, "Unhandled")
    assert answer.body == b'{"errorMessage":"on purpose","errorType":"Shell.Failure"}'


EXITS: list[tuple[Family, str, Any, str]] = [
    ("python", "os_exit", {"status": 0}, "Runtime exited without providing a reason"),
    ("python", "os_exit", {"status": 127}, "Runtime exited with error: exit status 127"),
    ("python", "sys_exit", {}, "Runtime exited without providing a reason"),
    ("python", "sys_exit", {"status": 3}, "Runtime exited with error: exit status 3"),
    ("python", "kill_self", {}, "Runtime exited with error: signal: killed"),
    ("python", "kill_self", {"signal": 11}, "Runtime exited with error: signal: segmentation fault"),
    ("node", "exits", {"status": 0}, "Runtime exited without providing a reason"),
    ("node", "exits", {"status": 9}, "Runtime exited with error: exit status 9"),
    ("provided", "exit", {}, "Runtime exited with error: exit status 5"),
]


@pytest.mark.parametrize(("family", "sample", "event", "reason"), EXITS)
def test_a_process_that_ends(functions: Functions, family: Family, sample: str, event: Any, reason: str) -> None:
    name = functions.sample(sample, family)
    for _ in range(2):  # The call after it starts afresh and gets the same, at once.
        answer = functions.invoke(name, event)
        assert (answer.status, answer.error, answer.version) == (200, "Unhandled", "$LATEST")
        message = f"RequestId: {answer.request_id} Error: {reason}"
        assert answer.body.decode() == f'{{"errorType":"Runtime.ExitError","errorMessage":"{message}"}}'
        assert f"{message}\nRuntime.ExitError\n" in answer.log
        assert float(report_of(answer.log)["ms"] or 0) < 3000


SOMETIMES = """
import os, signal, sys
process = os.urandom(8).hex()
def handler(event, context):
    if event == "raise":
        raise ValueError("asked for")
    if event == "exit":
        sys.exit(4)
    if event == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if event == "large":
        return "x" * 7_000_000
    if event == "object":
        return object()
    return [process, context.log_stream_name[-32:]]
"""


def test_the_next_call_works_after_each(functions: Functions) -> None:
    name = functions.python(SOMETIMES)
    for event in ("raise", "exit", "kill", "large", "object"):
        assert functions.invoke(name, event).error == "Unhandled", event
        answer = functions.invoke(name, "fine")
        assert answer.error is None, event
        assert len(answer.json) == 2


def test_an_exception_keeps_the_environment(functions: Functions) -> None:
    name = functions.python(SOMETIMES)
    process, environment = functions.invoke(name, "fine").json
    # In the images AWS's own client ends when its response is refused as too large; ours goes on.
    for event in ("raise", "object", *(() if functions.in_containers else ("large",))):
        wait_until_handed_back(functions, name)
        functions.invoke(name, event)
        wait_until_handed_back(functions, name)
        found = functions.invoke(name, "fine").json
        assert (found[0] == process) == functions.keeps_process, event
        assert (found[1] == environment) == functions.keeps_environment, event


def test_a_result_that_is_no_json(functions: Functions) -> None:
    answer = functions.invoke(functions.python(SOMETIMES), "object")
    assert answer.error == "Unhandled"
    assert answer.json["errorType"] == "Runtime.MarshalError"
    assert "is not JSON serializable" in answer.json["errorMessage"]


@pytest.mark.parametrize(
    ("handler", "error_type", "message"),
    [
        ("index.other", "Runtime.HandlerNotFound", "Handler 'other' missing on module 'index'"),
        (
            "nowhere.handler",
            "Runtime.ImportModuleError",
            "Unable to import module 'nowhere': No module named 'nowhere'",
        ),
        (
            "nodot",
            "Runtime.MalformedHandlerName",
            "Bad handler 'nodot': not enough values to unpack (expected 2, got 1)",
        ),
    ],
)
def test_a_handler_that_is_not_there(functions: Functions, handler: str, error_type: str, message: str) -> None:
    name = functions.create({"index.py": SOMETIMES}, handler)
    answer = functions.invoke(name, {})
    assert (answer.status, answer.error) == (200, "Unhandled")
    assert answer.json == {"errorMessage": message, "errorType": error_type, "requestId": "", "stackTrace": []}


def test_a_node_handler_that_is_not_there(functions: Functions) -> None:
    answer = functions.invoke(functions.sample("echo", "node", "other"), {})
    assert answer.error == "Unhandled"
    assert answer.json["errorType"] == "Runtime.HandlerNotFound"
    assert answer.json["errorMessage"] == "echo.other is undefined or not exported"


def test_a_missing_bootstrap_is_named(functions: Functions) -> None:
    answer = functions.invoke(functions.create({"other": "x"}, "any", "provided.al2023"), {})
    assert answer.error == "Unhandled"
    message = (
        f"RequestId: {answer.request_id} Error: Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]"
    )
    assert answer.json == {"errorType": "Runtime.InvalidEntrypoint", "errorMessage": message}


def test_unknown_functions_and_qualifiers(functions: Functions) -> None:
    name = functions.sample("echo")
    code, status, answer = functions.refused("nobody-made-this")
    assert (code, status) == ("ResourceNotFoundException", 404)
    assert answer["Error"]["Message"] == f"Function not found: {functions.arn('nobody-made-this', '$LATEST')}"
    assert answer["Type"] == "User"
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-errortype"] == "ResourceNotFoundException"
    assert UUID.fullmatch(answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"])
    code, status, answer = functions.refused(name, {}, Qualifier="9")
    assert (code, status) == ("ResourceNotFoundException", 404)
    assert answer["Error"]["Message"] == f"Function not found: {functions.arn(name, '9')}"


def test_dry_run_runs_nothing(functions: Functions) -> None:
    name = functions.python("raise SystemExit(1)")
    answer = functions.invoke(name, {}, InvocationType="DryRun", LogType=None)
    assert (answer.status, answer.body, answer.error) == (204, b"", None)
    assert functions.environments(name) == []
    assert functions.refused("nobody-made-this", {}, InvocationType="DryRun", LogType=None)[1] == 404


def test_every_form_of_a_name(functions: Functions) -> None:
    name = functions.sample("echo")
    arn = functions.arn(name)
    partial = arn.removeprefix("arn:aws:lambda:us-east-1:")
    for form in (name, arn, partial, f"{name}:$LATEST", f"{arn}:$LATEST", f"{partial}:$LATEST"):
        assert functions.invoke(form, {"form": form}).json == {"form": form}


def test_a_result_is_json_as_the_language_writes_it(functions: Functions) -> None:
    name = functions.python(
        'def handler(event, context):\n    return {"a": (1, 2), "b": [None, True]} if event else None'
    )
    assert functions.invoke(name, 1).body == b'{"a": [1, 2], "b": [null, true]}'
    assert functions.invoke(name, 0).body == b"null"
    name = functions.create(
        {"index.js": "exports.handler = async (e) => (e ? { a: [1], b: undefined } : undefined);"},
        "index.handler",
        functions.runtime("node"),
    )
    assert functions.invoke(name, 1).body == b'{"a":[1]}'
    assert functions.invoke(name, 0).body == b"null"
