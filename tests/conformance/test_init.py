"""Initialisation that fails, ends, hangs or takes too long; each is answered at once, and the call after it too."""

import re
import time
from collections.abc import Callable

from tests.conformance.test_results import report_of
from tests.services.calls import wait_until_handed_back
from tests.services.docker import processes_in
from tests.services.functions import Functions
from tests.services.processes import everything
from tests.services.waiting import wait_until

MakeFunctions = Callable[..., Functions]


def test_an_error_at_import(functions: Functions) -> None:
    name = functions.sample("init_error")
    for _ in range(2):
        answer = functions.invoke(name, {})
        assert (answer.status, answer.error) == (200, "Unhandled")
        found = answer.json
        assert list(found) == ["errorMessage", "errorType", "requestId", "stackTrace"]
        assert (found["errorMessage"], found["errorType"], found["requestId"]) == (
            "no luck at import",
            "RuntimeError",
            "",
        )
        assert found["stackTrace"][-1].endswith('line 3, in <module>\n    raise RuntimeError("no luck at import")\n')
        assert "[ERROR] RuntimeError: no luck at import" in answer.log
        assert report_of(answer.log)["id"] == answer.request_id


def test_a_module_that_is_missing(functions: Functions) -> None:
    answer = functions.invoke(functions.sample("init_missing"), {})
    assert answer.json["errorType"] == "Runtime.ImportModuleError"
    assert (
        answer.json["errorMessage"]
        == "Unable to import module 'init_missing': No module named 'no_such_module_anywhere'"
    )


def test_a_syntax_error_is_an_initialisation_error(functions: Functions) -> None:
    answer = functions.invoke(functions.python("def handler(event, context)\n    return 1\n"), {})
    assert answer.json["errorType"] == "Runtime.UserCodeSyntaxError"
    assert re.fullmatch(r"Syntax error in module 'index': .*", answer.json["errorMessage"])


def test_an_end_at_import(functions: Functions) -> None:
    name = functions.sample("init_exit")
    for _ in range(2):
        answer = functions.invoke(name, {})
        message = f"RequestId: {answer.request_id} Error: Runtime exited with error: exit status 7"
        assert answer.body.decode() == f'{{"errorType":"Runtime.ExitError","errorMessage":"{message}"}}'
        assert "leaving at import\n" in answer.log
    zero = functions.invoke(functions.python("import os\nos._exit(0)"), {})
    message = f"RequestId: {zero.request_id} Error: Runtime exited without providing a reason"
    assert zero.body.decode() == f'{{"errorType":"Runtime.ExitError","errorMessage":"{message}"}}'


def test_a_node_error_at_import(functions: Functions) -> None:
    name = functions.create(
        {"index.js": "throw new RangeError('at import');"}, "index.handler", functions.runtime("node")
    )
    answer = functions.invoke(name, {})
    assert answer.error == "Unhandled"
    assert answer.json["errorType"] == "RangeError"
    assert answer.json["errorMessage"] == "at import"
    assert isinstance(answer.json["trace"], list)


def test_a_repaired_function_works(functions: Functions) -> None:
    name = functions.python("raise RuntimeError('broken')")
    assert functions.invoke(name, {}).error == "Unhandled"
    functions.update(name, "handler = lambda event, context: 'repaired'")
    assert functions.invoke(name, {}).json == "repaired"


HANGS = """
import time
print("hanging at import")
time.sleep(3600)
"""


def test_a_hang_before_the_first_event(make_functions: MakeFunctions) -> None:
    """Initialisation is cut off, runs again under the function's timeout, and the caller gets the timeout's body."""
    functions = make_functions(LAMBDA_RUNTIME_ENVIRONMENT_TIMEOUT="1")
    name = functions.python(HANGS, Timeout=1)
    began = time.monotonic()
    answer = functions.invoke(name, {})
    assert 2 <= time.monotonic() - began < 15
    message = f"RequestId: {answer.request_id} Error: Task timed out after 1.00 seconds"
    assert answer.body.decode() == f'{{"errorType":"Sandbox.Timedout","errorMessage":"{message}"}}'
    assert answer.log.count("hanging at import") >= 1
    assert report_of(answer.log)["status"] == "timeout"
    assert not [process for process in everything() if process.uid in functions.stack.uids]
    wait_until(
        "nothing runs in its containers", lambda: not any(processes_in(one.id) for one in functions.containers(name))
    )
    functions.update(name, "handler = lambda event, context: 'fine'")
    assert functions.invoke(name, {}).json == "fine"


SLOW_ONCE = """
import os, time
time.sleep(2)
def handler(event, context):
    return context.get_remaining_time_in_millis()
"""


def test_slow_initialisation_runs_again_within_the_functions_timeout(make_functions: MakeFunctions) -> None:
    functions = make_functions(LAMBDA_RUNTIME_ENVIRONMENT_TIMEOUT="1")
    name = functions.python(SLOW_ONCE, Timeout=10)
    answer = functions.invoke(name, {})
    assert answer.error is None
    assert answer.json < 8000, "the time of the second initialisation is the invocation's"
    assert float(report_of(answer.log)["ms"] or 0) >= 2000
    if functions.keeps_process:
        wait_until_handed_back(functions, name)
        assert functions.invoke(name, {}).json > 9000, "the second call has its whole time"
