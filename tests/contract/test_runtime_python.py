"""The Python client against a real Runtime API, and, case by case, against AWS's own client."""

import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.services import runtime_api
from tests.services.runtime_api import REQUEST_ID, Report, RuntimeProcess
from tests.services.waiting import wait_until
from workers.contract.messages import FunctionSpec
from workers.runtimes import commands, interpreters
from workers.runtimes.clients import install_clients
from workers.runtimes.commands import runtime_command
from workers.runtimes.variables import process_environment

FUNCTIONS = Path(__file__).parents[1] / "functions" / "python"
CURRENT = f"{sys.version_info[0]}.{sys.version_info[1]}"
VERSIONS = [f"3.{minor}" for minor in range(8, 15)]


def _installed() -> list[str]:
    """The versions to test: those on PATH, and always the one that runs the tests."""
    places = os.pathsep.join(os.get_exec_path())
    found = [version for version in VERSIONS if next(interpreters.find_python(version, places), None)]
    assert CURRENT in found
    return found


def _spec(handler: str, version: str = CURRENT, **environment: str) -> FunctionSpec:
    return FunctionSpec(
        account="000000000000",
        region="us-east-1",
        function="sample",
        version="$LATEST",
        runtime=f"python{version}",
        handler=handler,
        timeout_s=3,
        memory_mb=128,
        ephemeral_mb=512,
        environment=environment,
        code_sha256="",
        revision="r",
    )


def _start(
    handler: str, code_dir: Path = FUNCTIONS, version: str = CURRENT, **environment: str
) -> AbstractContextManager[RuntimeProcess]:
    spec = _spec(handler, version, **environment)
    command = runtime_command(spec, code_dir, {})
    variables = process_environment(spec, command, code_dir, log_stream="stream", credentials={})
    return runtime_api.run(command.argv, variables, code_dir)


def _start_reference(
    handler: str, code_dir: Path = FUNCTIONS, **environment: str
) -> AbstractContextManager[RuntimeProcess]:
    """AWS's client under the same interpreter and with the same variables."""
    pytest.importorskip("awslambdaric") if not os.environ.get("CI") else None
    spec = _spec(handler, **environment)
    command = runtime_command(spec, code_dir, {})
    variables = process_environment(spec, command, code_dir, log_stream="stream", credentials={})
    variables.pop("_EVERWARM_HIDDEN_PATH", None)
    return runtime_api.run((sys.executable, "-m", "awslambdaric", handler), variables, code_dir)


@pytest.fixture(params=_installed())
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Case(NamedTuple):
    """One thing that a function may do; ``code`` is the file ``sample.py``."""

    code: str
    event: str = '{"key": "value"}'
    handler: str = "sample.handler"
    headers: Mapping[str, str] = {}


def _returning(expression: str) -> Case:
    return Case(
        f"""
import collections, decimal, enum, math
D = decimal.Decimal
Point = collections.namedtuple("Point", "x y")
class Number(enum.IntEnum):
    ONE = 1
class Word(str, enum.Enum):
    A = "a"
class Convertible:
    def _asdict(self):
        return {{"converted": D("1.0")}}
class Text(str):
    pass
class Whole(int):
    def __repr__(self):
        return "no"
circle = []
circle.append(circle)
deep = []
for _ in range(100000):
    deep = [deep]
def handler(event, context):
    return {expression}
"""
    )


CASES = {
    "echo": Case("def handler(event, context):\n    return event"),
    "echo of everything": Case(
        "def handler(event, context):\n    return event",
        ' {"ü\\u2028":"\\ud83d\\ude00\\u0000\\u007f/\\/","n":[1,-0,1.5,1e300,1E400,12345678901234567890123,'
        'true,false,null,{},[],""],"é":"日本"}\n ',
    ),
    "scalar event": Case("def handler(event, context):\n    return [event, type(event).__name__]", "3"),
    "nothing returned": Case("def handler(event, context):\n    pass"),
    "package": Case("def handler(event, context):\n    return __name__", handler="folder/inner.handler"),
    "package with dots": Case("def handler(event, context):\n    return __name__", handler="folder.inner.handler"),
    "bytes": _returning("b'\\xff\\x00raw'"),
    "bytes inside": _returning("{'a': b'text', b'k': [b'\\xc3\\xa4']}"),
    "bytes that are no text": _returning("[b'\\xff']"),
    "decimals": _returning("[D('1'), D('1.10'), D('1E+5'), D('-0'), D('NaN'), D('-Infinity'), {'d': D('0.1')}]"),
    "decimal key": _returning("{D('1'): 1}"),
    "named tuple": _returning("[Point(1, Point(2, 'ü')), (1, (2,))]"),
    "top named tuple": _returning("Point(1, 2)"),
    "_asdict": _returning("[Convertible()]"),
    "enumerations": _returning("[Number.ONE, Word.A, Text('t'), Whole(3), {Text('k'): 1, Number.ONE: 2}]"),
    "keys": _returning("{1: 1, 1.5: 2, True: 3, None: 4, 'ü': 5}"),
    "not a number": _returning("[math.nan, math.inf, -math.inf, {math.nan: 1}]"),
    "ordered": _returning("collections.OrderedDict([('b', 1), ('a', [()])])"),
    "subclass": _returning("[collections.defaultdict(list, a=[1]), collections.Counter('aab')]"),
    "set": _returning("{1}"),
    "set inside": _returning("{'a': [Point(1, {2})]}"),
    "tuple key": _returning("{(1, 2): 3}"),
    "tuple key inside": _returning("[Point(1, {(1, 2): 3})]"),
    "object": _returning("object()"),
    "class": _returning("[Point, Convertible]"),
    "generator": _returning("(n for n in [1])"),
    "circle": _returning("circle"),
    "circle beside": _returning("[Point(1, circle)]"),
    "text": _returning("Text('ü')"),
    "control characters": _returning("''.join(map(chr, range(0x20))) + '\\x7f\\x80\\u2028\\uffff\\U0001f600'"),
    "raises": Case((FUNCTIONS / "raises.py").read_text(), '{"message": "ü no"}'),
    "raises without text": Case("def handler(event, context):\n    raise KeyError()"),
    "raises a key": Case("def handler(event, context):\n    return event['missing']"),
    "raises from": Case(
        "class Own(Exception):\n    pass\n\ndef deeper(n):\n    if n:\n        return deeper(n - 1)\n"
        "    try:\n        1 / 0\n    except ZeroDivisionError as error:\n        raise Own('a\\nb', 2) from error\n\n"
        "def handler(event, context):\n    return [deeper(5) for _ in range(1)]"
    ),
    "raises in a library": Case("import json\ndef handler(event, context):\n    return json.loads('{')"),
    "assertion": Case("def handler(event, context):\n    assert event == 1"),
    "no such module": Case("", handler="absent.handler"),
    "no such module in a folder": Case("", handler="folder/absent.handler"),
    "no such function": Case("", handler="sample.absent"),
    "no dot": Case("", handler="sample"),
    "built-in module": Case("", handler="sys.handler"),
    "missing import": Case("import no_such_module_anywhere"),
    "missing name": Case("from json import no_such_name"),
    "syntax error": Case("def handler(event, context)\n    return 1"),
    "indentation": Case("def handler(event, context):\n  if 1:\n return 1"),
    "import raises": Case("def f():\n    raise RuntimeError('at import')\nf()"),
    "import raises deeper": Case("import other", handler="sample.handler"),
    "context": Case(
        "def handler(event, context):\n"
        "    c = context\n"
        "    return [repr(c), c.client_context.client.app_title, c.client_context.custom, c.w3c(),\n"
        "        c.identity.cognito_identity_id, type(c).__name__, c.get_remaining_time_in_millis() > 1000]",
        headers={
            "Client-Context": '{"client": {"app_title": "t"}, "custom": {"k": "v"}, "w3c": {"traceparent": "p"}}',
            "Cognito-Identity": '{"cognitoIdentityId": "i", "cognitoIdentityPoolId": "p"}',
            "Aws-Tenant-Id": "blue",
        },
    ),
    "bare context": Case("def handler(event, context):\n    return repr(context)"),
    "context that is no JSON": Case("def handler(event, context): pass", headers={"Client-Context": "{"}),
    "identity that is no JSON": Case("def handler(event, context): pass", headers={"Cognito-Identity": "no"}),
    "event that is no JSON": Case("def handler(event, context): pass", '{"a": tru}'),
    "event cut short": Case("def handler(event, context): pass", '{"a": [1,'),
    "trace id": Case(
        "import os\ndef handler(event, context):\n    return os.environ.get('_X_AMZN_TRACE_ID')",
        headers={"Trace-Id": "Root=1-2-3;Sampled=1"},
    ),
    "os.environ": Case("import os\ndef handler(event, context):\n    return sorted(os.environ)"),
}


@pytest.fixture
def write_case(tmp_path: Path) -> Callable[[Case], Path]:
    def write(case: Case) -> Path:
        (tmp_path / "folder").mkdir()
        (tmp_path / "sample.py").write_text(case.code)
        (tmp_path / "folder" / "inner.py").write_text(case.code)
        (tmp_path / "other.py").write_text("def deep():\n    raise LookupError('deep')\n\ndeep()\n")
        return tmp_path

    return write


@pytest.mark.parametrize("execution", ["AWS_Lambda_python3.11", "AWS_Lambda_python3.13"])
@pytest.mark.parametrize("name", CASES)
def test_reports_what_awss_client_reports(
    name: str, execution: str, write_case: Callable[[Case], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte: the path, the content type and the body."""
    case = CASES[name]
    code_dir = write_case(case)
    marks = {"AWS_EXECUTION_ENV": execution, "LAMBDA_RUNTIME_DIR": "/var/runtime"}
    monkeypatch.setattr(commands, "_marks", lambda _runtime: dict(marks))

    def report(process: RuntimeProcess) -> Report:
        process.send(case.event.encode(), **case.headers)
        return process.next_report()

    with _start(case.handler, code_dir) as process:
        ours = report(process)
    with _start_reference(case.handler, code_dir) as process:
        theirs = report(process)
    assert _without_client(ours.body) == _without_client(theirs.body)
    assert ours.path == theirs.path
    if ours.ending == "response":
        assert ours.headers["Content-Type"] == theirs.headers["Content-Type"]
    else:
        assert ours.headers["Lambda-Runtime-Function-Error-Type"] == json.loads(theirs.body)["errorType"]


def _without_client(body: bytes) -> bytes:
    """Without the variables that tell the two clients apart."""
    return body.replace(b'"_EVERWARM_HIDDEN_PATH", ', b"")


@pytest.mark.parametrize("handler", ["sample.handler", "sample.TEXT"])
def test_a_handler_that_can_not_be_called_like_one(handler: str, tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text("TEXT = 'text'\ndef handler(event):\n    pass\n")
    with _start(handler, tmp_path) as process:
        ours = json.loads(process.invoke().body)
    with _start_reference(handler, tmp_path) as process:
        theirs = json.loads(process.invoke().body)
    [our_frame], [their_frame] = ours.pop("stackTrace"), theirs.pop("stackTrace")
    assert ours == theirs
    # The one frame is the client's own: file and line differ, the rest does not.
    assert our_frame.rpartition(", in ")[2] == "handle_event_request\n    response = request_handler(event, context)\n"
    assert their_frame.rpartition(", in ")[2].startswith("handle_event_request\n    response = request_handler(event, ")


def test_an_exception_becomes_awss_error_document(version: str) -> None:
    with _start("raises.handler", version=version) as process:
        report = process.invoke(b'{"message": "no \\u00fc"}')
        assert report.path == f"/invocation/{REQUEST_ID}/error"
        assert json.loads(report.body) == {
            "errorMessage": "no ü",
            "errorType": "ValueError",
            "requestId": REQUEST_ID,
            "stackTrace": [
                f'  File "{FUNCTIONS}/raises.py", line 9, in handler\n    inner(event.get("message", "on purpose"))\n',
                f'  File "{FUNCTIONS}/raises.py", line 5, in inner\n    raise ValueError(message)\n',
            ],
        }
        process.wait_ready()
        process.wait_ready()
    assert process.output == (
        "[ERROR] ValueError: no ü\nTraceback (most recent call last):\n"
        f'\u00a0\u00a0File "{FUNCTIONS}/raises.py", line 9, in handler\n'
        '\u00a0\u00a0\u00a0\u00a0inner(event.get("message", "on purpose"))\n'
        f'\u00a0\u00a0File "{FUNCTIONS}/raises.py", line 5, in inner\n'
        "\u00a0\u00a0\u00a0\u00a0raise ValueError(message)\n"
    )


def test_endless_recursion_is_reported_as_an_error(version: str, tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text("def handler(event, context):\n    return handler(event, context)")
    with _start("sample.handler", tmp_path, version) as process:
        error = json.loads(process.invoke().body)
        assert error["errorType"] == "RecursionError"
        assert "[Previous line repeated " in error["stackTrace"][-1] or len(error["stackTrace"]) > 3
        assert json.loads(process.invoke().body)["errorType"] == "RecursionError"


def test_an_initialisation_error_is_reported_and_ends_the_process(version: str) -> None:
    with _start("init_error.handler", version=version) as process:
        report = process.next_report()
        assert process.ends() == 1
    assert report.path == "/init/error"
    error = json.loads(report.body)
    assert error["requestId"] == ""
    assert error["errorType"] == report.headers["Lambda-Runtime-Function-Error-Type"] == "RuntimeError"
    assert error["stackTrace"][0].startswith(f'  File "{Path(os.__file__).parent.parent}') or "importlib" in str(error)
    assert error["stackTrace"][-1].startswith(f'  File "{FUNCTIONS}/init_error.py", line 3, in <module>\n')
    assert process.output.startswith("[ERROR] RuntimeError: no luck at import\nTraceback (most recent call last):\n")


def test_values_are_written_as_awss_client_writes_them(version: str, write_case: Callable[[Case], Path]) -> None:
    """Every version writes the same JSON; from 3.12 on without escapes."""
    case = _returning("[Point(D('1.50'), 'ü'), Word.A, b'b', {None: 1.0, 2: math.nan}, deep and None]")
    with _start("sample.handler", write_case(case), version) as process:
        body = process.invoke().body
    word = "ü" if int(version[2:]) >= 12 else "\\u00fc"
    assert body.decode() == f'[{{"x": 1.50, "y": "{word}"}}, "a", "b", {{"null": 1.0, "2": NaN}}, null]'


def test_warm_calls_keep_state_and_connection(version: str) -> None:
    with _start("counter.handler", version=version) as process:
        assert [json.loads(process.invoke().body)["calls"] for _ in range(20)] == list(range(1, 21))
        assert process.api.connections == 1


def test_six_megabytes_both_ways(version: str) -> None:
    text = json.dumps("x" * 6_000_000 + "ü", ensure_ascii=False).encode()
    with _start("echo.handler", version=version) as process:
        assert json.loads(process.invoke(text).body) == json.loads(text)
        assert json.loads(process.invoke(b'"small"').body) == "small"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunked", [False, True])
def test_responses_that_arrive_in_pieces(version: str, seed: int, chunked: bool) -> None:
    documents = [{"n": n, "text": "ü" * n} for n in (0, 1, 50, 3000)] + [{"text": "x" * 300_000}]
    with _start("echo.handler", version=version) as process:
        process.api.cut = runtime_api.cut_by(seed)
        process.api.chunked = chunked
        for document in documents:
            assert json.loads(process.invoke(json.dumps(document).encode()).body) == document
        assert process.api.connections == 1


def test_a_server_that_closes_each_connection(version: str) -> None:
    with _start("counter.handler", version=version) as process:
        process.api.closes = True
        assert [json.loads(process.invoke().body)["calls"] for _ in range(3)] == [1, 2, 3]
        assert process.api.connections >= 3


def test_ends_when_the_api_is_gone(version: str) -> None:
    with _start("echo.handler", version=version) as process:
        process.wait_ready()
        process.api.events.put(None)
        assert process.ends() == 1


def test_a_refused_response_is_no_end(version: str) -> None:
    with _start("echo.handler", version=version) as process:
        process.api.status = 413
        process.invoke(b'"too large"')
        process.api.status = 202
        assert process.invoke(b'"next"').body == b'"next"'
    assert "Failed to post handler success response. Http response code: 413." in process.output


@pytest.mark.parametrize(
    ("handler", "event", "status"),
    [
        ("sys_exit.handler", b"{}", 0),
        ("sys_exit.handler", b'{"status": 3}', 3),
        ("os_exit.handler", b'{"status": 127}', 127),
        ("kill_self.handler", b"{}", -signal.SIGKILL),
        ("init_exit.handler", b"{}", 7),
    ],
)
def test_a_handler_that_exits_reports_nothing(handler: str, event: bytes, status: int) -> None:
    with _start(handler) as process:
        process.send(event)
        assert process.ends() == status
        assert process.api.reports.empty()


def test_exits_as_awss_client_does() -> None:
    def status(started: AbstractContextManager[RuntimeProcess], event: bytes) -> tuple[int, bool]:
        with started as process:
            process.send(event)
            return process.ends(), process.api.reports.empty()

    for event in (b"{}", b'{"status": 0}', b'{"status": 4}', b'{"status": "text"}'):
        assert status(_start("sys_exit.handler"), event) == status(_start_reference("sys_exit.handler"), event)


def test_output_comes_as_it_is_printed(version: str) -> None:
    with _start("hang.handler", version=version) as process:
        process.send()
        wait_until("the line has come", lambda: process.output == "hanging\n")


def test_prints_do_not_touch_the_result(version: str) -> None:
    with _start("prints_json.handler", version=version) as process:
        assert process.invoke().body == b'{"real": true}'
    assert process.output == (
        '{"statusCode": 500, "body": "not the result"}\nwithout an end of line{"on": "standard error"}\n'
    )


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")


def _logged(process: RuntimeProcess) -> str:
    process.invoke(b'{"a": 1}')
    process.wait_ready()
    process.wait_ready()
    return _TIME.sub("<time>", process.output)


def test_log_lines_look_like_awss(version: str) -> None:
    with _start("logs.handler", version=version) as process:
        assert _logged(process) == (
            "[WARNING]\t<time>\t\tat import\n"
            "printed\n"
            "to standard error\n"
            f"[INFO]\t<time>\t{REQUEST_ID}\tby the root logger, {{'a': 1}}\n"
            f"[WARNING]\t<time>\t{REQUEST_ID}\tby a named logger\n"
        )


LOGGING = """
import logging
logging.getLogger("x").warning({"a": "\\u00fc"})
def handler(event, context):
    logging.getLogger("x").info("info")
    logging.getLogger("y").debug("debug %s", 1)
    logging.getLogger("y").error("with more", extra={"more": [1, object]})
    logging.basicConfig(level=logging.DEBUG)
    try:
        1 / 0
    except ZeroDivisionError:
        logging.exception("failed")
    context.log("by the context\\n")
"""


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
@pytest.mark.parametrize("level", ["", "DEBUG", "TRACE", "ERROR"])
def test_log_lines_as_awss_client_writes_them(log_format: str, level: str, tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(LOGGING)
    settings = {"AWS_LAMBDA_LOG_FORMAT": log_format, **({"AWS_LAMBDA_LOG_LEVEL": level} if level else {})}
    with _start("sample.handler", tmp_path, **settings) as process:
        ours = _logged(process)
    with _start_reference("sample.handler", tmp_path, **settings) as process:
        assert ours == _logged(process)


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_errors_are_logged_as_awss_client_does(log_format: str) -> None:
    def output(started: AbstractContextManager[RuntimeProcess]) -> str:
        with started as process:
            return _logged(process)

    # Where AWS's client writes to a plain stream it ends lines within a record by \r.
    theirs = output(_start_reference("raises.handler", AWS_LAMBDA_LOG_FORMAT=log_format)).replace("\r", "\n")
    ours = output(_start("raises.handler", AWS_LAMBDA_LOG_FORMAT=log_format))
    assert ours.rstrip("\n") == theirs.rstrip("\n")


NAMES = ["bootstrap", "runtime", "_everwarm", "api", "client", "test", "uuid", "json_", "main", "workers", "handler"]


@pytest.mark.parametrize("name", NAMES)
def test_the_functions_module_may_have_any_name(name: str, version: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("import json, logging\ndef handler(event, context):\n    return __file__")
    with _start(f"{name}.handler", tmp_path, version) as process:
        assert json.loads(process.invoke().body) == str(tmp_path / f"{name}.py")


def test_standard_modules_in_the_functions_folder_do_not_break_the_client(version: str, tmp_path: Path) -> None:
    """Those that AWS loads first win there as well; the client needs them whole."""
    for name in ("token", "types", "json", "logging", "traceback", "re", "_json", "_socket", "linecache"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported the wrong module')")
    (tmp_path / "sample.py").write_text(
        "import json, logging, decimal\ndef handler(event, context):\n    logging.error('x')\n    raise ValueError(json)"
    )
    with _start("sample.handler", tmp_path, version) as process:
        assert json.loads(process.invoke().body)["errorType"] == "ValueError"


def test_nothing_of_ours_is_in_the_functions_reach(version: str, tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(
        "import importlib.util, os, sys, __main__\n"
        "def handler(event, context):\n"
        "    found = [n for n in ('workers', 'dispatcher', 'celery', 'bootstrap') if importlib.util.find_spec(n)]\n"
        "    return [found, sys.path, sys.argv, [n for n in vars(__main__) if n[:2] != '__'], sorted(os.environ)]\n"
    )
    with _start("sample.handler", tmp_path, version) as process:
        found, path, argv, names, variables = json.loads(process.invoke().body)
    assert found == []
    assert path[0] == str(tmp_path)
    assert not [entry for entry in path if entry.startswith(str(interpreters.PACKAGES))]
    assert len(argv) == 1
    assert names == ["sys", "_everwarm_client"]
    assert not [name for name in variables if "EVERWARM" in name]


def test_python_path_comes_after_the_functions_folder(version: str, tmp_path: Path) -> None:
    code_dir, layer = tmp_path / "code", tmp_path / "layer"
    for folder in (code_dir, layer):
        folder.mkdir()
        (folder / "both.py").write_text("FROM = __file__")
    (layer / "only.py").write_text("FROM = __file__")
    (code_dir / "sample.py").write_text(
        "import both, only\ndef handler(event, context):\n    return [both.FROM, only.FROM]"
    )
    with _start("sample.handler", code_dir, version, PYTHONPATH=str(layer)) as process:
        assert json.loads(process.invoke().body) == [str(code_dir / "both.py"), str(layer / "only.py")]


def test_interpreter_options_that_change_the_path(version: str) -> None:
    """A mapped runtime may carry options; -P leaves the script's folder out of the path."""
    places = os.pathsep.join(os.get_exec_path())
    python = next(interpreters.find_python(version, places)).executable
    option = "-P" if int(version[2:]) >= 11 else "-s"
    spec = _spec("echo.handler", version)
    command = runtime_command(spec, FUNCTIONS, {spec.runtime: f"{python} {option} -X dev"})
    variables = process_environment(spec, command, FUNCTIONS, log_stream="s", credentials={})
    with runtime_api.run(command.argv, variables, FUNCTIONS) as process:
        assert process.invoke(b"[1]").body == b"[1]"
    assert process.output == ""


def test_a_response_that_is_refused_before_it_is_read_is_no_end(version: str) -> None:
    with _start("big_response.handler", version=version) as process:
        process.api.hasty = True
        process.send(b'{"bytes": 20000000}')
        process.wait_ready()
        process.wait_ready()
        process.api.hasty = False
        assert process.invoke(b'{"bytes": 4}').body == b'"xx"'
    assert "Failed to post handler success response. Http response code: " in process.output


def test_signals_reach_a_waiting_runtime(version: str, tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('stopping'), sys.exit(0)))\n"
        "def handler(event, context):\n    return 1"
    )
    with _start("sample.handler", tmp_path, version) as process:
        process.invoke()
        process.wait_ready()
        process.wait_ready()
        process.process.send_signal(signal.SIGTERM)
        assert process.ends() == 0
    assert process.output == "stopping\n"


def test_processes_that_the_function_spawns(version: str, tmp_path: Path) -> None:
    """They import the main script again, which must not start a second client."""
    (tmp_path / "sample.py").write_text(
        "import multiprocessing\n"
        "def work(pipe):\n    pipe.send('from the child')\n"
        "def handler(event, context):\n"
        "    spawn = multiprocessing.get_context('spawn')\n"
        "    here, there = spawn.Pipe()\n"
        "    child = spawn.Process(target=work, args=(there,))\n"
        "    child.start()\n"
        "    text = here.recv()\n"
        "    child.join()\n"
        "    return [text, child.exitcode]\n"
    )
    with _start("sample.handler", tmp_path, version) as process:
        assert json.loads(process.invoke().body) == ["from the child", 0]
        assert process.api.connections == 1


def test_looking_for_logging_does_not_lose_its_set_up(version: str, tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(
        "import importlib.util, sys\n"
        "assert 'logging' not in sys.modules\n"
        "assert importlib.util.find_spec('logging')\n"
        "import logging\n"
        "logging.error('set up')\n"
        "def handler(event, context):\n    return len(logging.getLogger().handlers)"
    )
    with _start("sample.handler", tmp_path, version) as process:
        assert process.invoke().body == b"1"
    assert _TIME.sub("<time>", process.output) == "[ERROR]\t<time>\t\tset up\n"


def _pairs() -> list[tuple[str, str]]:
    return list(itertools.product(_installed(), ["sample.handler", "absent.handler"]))


@pytest.mark.parametrize(("version", "handler"), _pairs())
def test_the_installed_copies_of_the_client_run(version: str, handler: str, tmp_path: Path) -> None:
    """The mode copies the clients to where every user can read them."""
    clients = install_clients(tmp_path / "clients")
    code_dir = tmp_path / "code"
    code_dir.mkdir()
    (code_dir / "sample.py").write_text("def handler(event, context):\n    raise ValueError('x')")
    spec = _spec(handler, version)
    command = runtime_command(spec, code_dir, {}, clients=clients)
    assert command.argv[-1] == str(clients / "python" / "bootstrap.py")
    compiled = {path.name for path in (clients / "python" / "__pycache__").iterdir()}
    assert f"_everwarm_client.cpython-{version.replace('.', '')}.pyc" in compiled
    variables = process_environment(spec, command, code_dir, log_stream="s", credentials={})
    with runtime_api.run(command.argv, variables, code_dir) as process:
        process.send()
        assert process.next_report().ending == "error"
