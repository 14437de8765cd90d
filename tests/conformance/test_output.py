"""What functions write: none of it is ever the result, the tail is its last 4 KB, the stored log has all of it."""

import re

from tests.services.calls import wait_until_handed_back
from tests.services.functions import Functions
from tests.services.waiting import wait_until


def stored_log(functions: Functions, name: str, request_id: str) -> bytes:
    """The function's whole log once the call's REPORT is in it."""

    def whole() -> bytes:
        status, body = functions.stack.get(f"/_everwarm/logs/{name}")
        return body if status == 200 and f"REPORT RequestId: {request_id}".encode() in body else b""

    return wait_until("the log is stored", whole, 30)


def test_printed_json_is_not_the_result(functions: Functions) -> None:
    name = functions.sample("prints_json")
    for _ in range(2):
        answer = functions.invoke(name, {})
        assert answer.body == b'{"real": true}'
        assert '{"statusCode": 500, "body": "not the result"}\n' in answer.log
        assert '{"on": "standard error"}\n' in answer.log
        assert "without an end of line" in answer.log
        assert f"END RequestId: {answer.request_id}\n" in answer.log


def test_both_streams_in_the_order_written(functions: Functions) -> None:
    answer = functions.invoke(functions.sample("logs"), {})
    words = re.findall(r"printed|to standard error|by the root|by a named|START|END", answer.log)
    assert words == ["START", "printed", "to standard error", "by the root", "by a named", "END"]
    assert "at import" in answer.log


def test_node_writes_aws_prefix(functions: Functions) -> None:
    answer = functions.invoke(functions.sample("logs", "node"), {})
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.search(rf"{stamp}\t{answer.request_id}\tINFO\ttext and {{ a: 1 }}\n", answer.log)
    assert re.search(rf"{stamp}\t{answer.request_id}\tERROR\terror with a cause\n", answer.log)
    assert "\nraw\n" in answer.log


def test_the_tail_is_the_last_4_kb(functions: Functions) -> None:
    name = functions.python("""
def handler(event, context):
    for number in range(2000):
        print("line", number)
""")
    answer = functions.invoke(name, {})
    assert len(answer.log) == 4096
    assert answer.log.endswith("\n")
    assert f"line 1999\nEND RequestId: {answer.request_id}\n" in answer.log
    log = stored_log(functions, name, answer.request_id)
    assert [line for line in log.splitlines() if line.startswith(b"line ")] == [b"line %d" % i for i in range(2000)]


def test_a_hundred_megabytes_of_output(functions: Functions) -> None:
    name = functions.sample("big_output", Timeout=60)
    size = 100_000_000 if functions.kind == "local" else 30_000_000
    answer = functions.invoke(name, {"bytes": size})
    assert (answer.error, answer.json) == (None, size)
    line = "x" * 999 + "\n"
    before, _, after = answer.log.partition("END RequestId: ")
    assert after.startswith(answer.request_id)
    assert before.endswith(line * 3)
    assert functions.invoke(name, {"bytes": 10}).body == b"10"
    log = stored_log(functions, name, answer.request_id)
    assert log.count(line.encode()) == size // 1000
    assert log.startswith(b"START RequestId: ")


def test_binary_output_harms_nothing(functions: Functions) -> None:
    name = functions.python("""
import os
def handler(event, context):
    os.write(1, bytes(range(256)) * 3)
    os.write(2, b"\\x00\\x00\\x00\\xff\\xfe no end of line")
    return "fine"
""")
    for _ in range(2):
        answer = functions.invoke(name, {})
        assert answer.body == b'"fine"'
        assert f"START RequestId: {answer.request_id}" in answer.log
        assert f"END RequestId: {answer.request_id}\n" in answer.log
    log = stored_log(functions, name, answer.request_id)
    assert log.count(bytes(range(256)) * 3) == 2


def test_closed_output_harms_nobody(functions: Functions) -> None:
    name = functions.python("""
import os
def handler(event, context):
    if event == "close":
        os.close(1)
        os.close(2)
    return 1
""")
    assert functions.invoke(name, "close").error is None
    for _ in range(2):
        answer = functions.invoke(name, {})
        assert answer.error is None
        assert f"END RequestId: {answer.request_id}\n" in answer.log
    name = functions.create(
        {"index.js": "exports.handler = async () => { process.stdout.end(); process.stderr.destroy(); return 1; };"},
        "index.handler",
        functions.runtime("node"),
    )
    for _ in range(3):
        assert functions.invoke(name, {}).body == b"1"


def test_output_between_invocations_is_stored(functions: Functions) -> None:
    name = functions.python("""
import threading, time
def handler(event, context):
    threading.Timer(0.5, lambda: print("said later", flush=True)).start()
    return 1
""")
    answer = functions.invoke(name, {})
    if not functions.keeps_process:
        # Its process has ended with the invocation, before it could say anything.
        wait_until_handed_back(functions, name)
        again = functions.invoke(name, {})
        log = stored_log(functions, name, again.request_id)
        assert answer.request_id.encode() in log
        assert b"said later" not in log
        return

    def later() -> bool:
        status, body = functions.stack.get(f"/_everwarm/logs/{name}")
        return status == 200 and b"said later" in body

    wait_until("what was said later is stored", later)


def test_every_call_has_its_own_lines(functions: Functions) -> None:
    name = functions.python("def handler(event, context):\n    print('event', event)\n")
    answers = [functions.invoke(name, number) for number in range(functions.times(5))]
    for number, answer in enumerate(answers):
        assert re.findall(r"event \d+", answer.log) == [f"event {number}"]
    log = stored_log(functions, name, answers[-1].request_id).decode()
    for answer in answers:
        assert log.count(f"START RequestId: {answer.request_id}") == 1
        assert log.count(f"REPORT RequestId: {answer.request_id}") == 1
