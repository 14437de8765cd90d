"""The Node.js client against a real Runtime API. The expected answers are those of AWS's own client."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.services import runtime_api
from tests.services.runtime_api import ARN, REQUEST_ID, RuntimeProcess
from workers.contract.messages import FunctionSpec
from workers.runtimes import interpreters
from workers.runtimes.clients import CLIENTS, install_clients
from workers.runtimes.commands import runtime_command
from workers.runtimes.variables import process_environment

FUNCTIONS = Path(__file__).parents[1] / "functions" / "node"
MAJORS = [str(major) for major in range(12, 27, 2)]


def _installed() -> list[str]:
    places = os.pathsep.join(os.get_exec_path())
    return [major for major in MAJORS if next(interpreters.find_node(major, places), None)]


if not _installed() and not os.environ.get("CI"):
    pytest.skip("no Node.js on PATH: apt-get install nodejs", allow_module_level=True)


@pytest.fixture(params=_installed() or ["none"])
def major(request: pytest.FixtureRequest) -> str:
    assert request.param != "none", "no Node.js on PATH"
    return str(request.param)


def _start(
    major: str, handler: str, code_dir: Path = FUNCTIONS, **environment: str
) -> AbstractContextManager[RuntimeProcess]:
    spec = FunctionSpec(
        account="000000000000",
        region="us-east-1",
        function="sample",
        version="$LATEST",
        runtime=f"nodejs{major}.x",
        handler=handler,
        timeout_s=3,
        memory_mb=128,
        ephemeral_mb=512,
        environment=environment,
        code_sha256="",
        revision="r",
    )
    command = runtime_command(spec, code_dir, {})
    variables = process_environment(spec, command, code_dir, log_stream="stream", credentials={})
    return runtime_api.run(command.argv, variables, code_dir)


def _write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


CJS = "exports.handler = async () => __filename;"
ESM = "export const handler = async () => import.meta.url; export default {deep: {er: handler}};"


@pytest.mark.parametrize(
    ("handler", "files", "answer"),
    [
        ("index.handler", {"index.js": CJS}, "/index.js"),
        ("index.handler", {"index.cjs": CJS}, "/index.cjs"),
        ("index.handler", {"index.mjs": ESM}, "file:///index.mjs"),
        ("index.handler", {"index.js": ESM, "package.json": '{"type": "module"}'}, "file:///index.js"),
        ("index.handler", {"index.js": CJS, "package.json": '{"type": "commonjs"}'}, "/index.js"),
        ("index.handler", {"index.js": CJS, "index.mjs": ESM}, "/index.js"),
        ("src/app.handler", {"src/app.js": CJS}, "/src/app.js"),
        ("src/deep/app.handler", {"src/deep/app.mjs": ESM}, "file:///src/deep/app.mjs"),
        ("src/app.handler", {"src/app.js": ESM, "package.json": '{"type": "module"}'}, "file:///src/app.js"),
        ("index.default.deep.er", {"index.mjs": ESM}, "file:///index.mjs"),
        ("index.a.b", {"index.js": "exports.a = {b: async () => 'nested'};"}, "nested"),
        ("folder.handler", {"folder/index.js": CJS}, "/folder/index.js"),
        ("pkg.handler", {"node_modules/pkg/index.js": CJS}, "/node_modules/pkg/index.js"),
        ("wasserfall.handler", {"wasserfall.mjs": "export {handler} from './b #ü.mjs'", "b #ü.mjs": ESM}, None),
        ("b #ü.handler", {"b #ü.mjs": ESM}, "file:///b%20%23%C3%BC.mjs"),
    ],
)
def test_the_handler_is_found_where_aws_finds_it(
    major: str, handler: str, files: Mapping[str, str], answer: str | None, tmp_path: Path
) -> None:
    with _start(major, handler, _write(tmp_path, files)) as process:
        report = process.invoke()
        found = json.loads(report.body)
    if answer is None:
        assert report.ending == "error" or str(found).startswith("file://")
    else:
        assert str(found).replace(str(tmp_path), "") == answer


@pytest.mark.parametrize(
    ("handler", "code", "kind", "message"),
    [
        ("absent.handler", "", "Runtime.ImportModuleError", "Error: Cannot find module 'absent'\nRequire stack:\n- "),
        (
            "index.handler",
            "require('no-such-package')",
            "Runtime.ImportModuleError",
            "Error: Cannot find module 'no-such-package'\nRequire stack:\n- ",
        ),
        ("index.absent", CJS, "Runtime.HandlerNotFound", "index.absent is undefined or not exported"),
        ("index.a.b", CJS, "Runtime.HandlerNotFound", "index.a.b is undefined or not exported"),
        ("index.handler", "exports.handler = 'x'", "Runtime.HandlerNotFound", "index.handler is not a function"),
        ("index", CJS, "Runtime.MalformedHandlerName", "Bad handler"),
        ("../index.handler", CJS, "Runtime.MalformedHandlerName", "'../index.handler' is not a valid handler name."),
        ("index.handler", "exports.handler = (", "Runtime.UserCodeSyntaxError", "SyntaxError: Unexpected end of input"),
        ("index.handler", "throw new RangeError('at import')", "RangeError", "at import"),
    ],
)
def test_initialisation_errors_are_reported_and_end_the_process(
    major: str, handler: str, code: str, kind: str, message: str, tmp_path: Path
) -> None:
    with _start(major, handler, _write(tmp_path, {"index.js": code} if code else {})) as process:
        report = process.next_report()
        status = process.ends()
    error = json.loads(report.body)
    assert report.path == "/init/error"
    assert report.headers["Lambda-Runtime-Function-Error-Type"] == error["errorType"] == kind
    assert error["errorMessage"].startswith(message)
    assert error["trace"][0].startswith(f"{kind}: ")
    assert list(error) == ["errorType", "errorMessage", "trace"]
    assert status == 129
    assert f'undefined\tERROR\tUncaught Exception \t{{"errorType":"{kind}","errorMessage":' in process.output


def _answer(process: RuntimeProcess, event: Any = None) -> tuple[str, Any]:
    report = process.invoke(json.dumps(event).encode())
    return report.ending, json.loads(report.body)


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("async (event) => event", {"k": "ü"}),
        ("async () => {}", None),
        ("async () => undefined", None),
        ("() => Promise.resolve(1)", 1),
        ("() => ({then: (resolve) => resolve('thenable')})", "thenable"),
        ("(event, context, callback) => callback(null, event)", {"k": "ü"}),
        ("(event, context, callback) => setTimeout(callback, 5, null, 'late')", "late"),
        ("(event, context, callback) => { callback(undefined, 'first'); callback(null, 'second'); }", "first"),
        ("(event, context) => context.succeed('s')", "s"),
        ("(event, context) => context.done(null, 'd')", "d"),
        ("(event, context) => { setTimeout(() => context.succeed('s'), 5); }", "s"),
        ("() => {}", None),
        ("() => 'a value that no promise carries'", None),
        ("async () => ({toJSON: () => 'by toJSON'})", "by toJSON"),
        ("async () => [new Date(0), undefined, NaN, () => 1]", ["1970-01-01T00:00:00.000Z", None, None, None]),
        ("async () => () => 1", None),
        ("async () => Buffer.from('b')", {"type": "Buffer", "data": [98]}),
        # Work that goes on keeps a callback's answer back, unless the function says otherwise.
        (
            "(event, context, callback) => { const r = []; setTimeout(() => r.push('done'), 30); callback(null, r); }",
            ["done"],
        ),
        (
            """(event, c, callback) => { c.callbackWaitsForEmptyEventLoop = false; const r = [1];
            setTimeout(() => r.push('done'), 300); callback(null, r); }""",
            [1],
        ),
    ],
)
def test_a_handler_may_answer_in_every_way_of_node(major: str, code: str, answer: object, tmp_path: Path) -> None:
    with _start(major, "index.handler", _write(tmp_path, {"index.js": f"exports.handler = {code};"})) as process:
        for _ in range(2):
            assert _answer(process, {"k": "ü"}) == ("response", answer)


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("async () => { throw new RangeError('ü') }", "RangeError", "ü"),
        ("() => { throw new RangeError('sync') }", "RangeError", "sync"),
        ("(event, context, callback) => callback(new TypeError('back'))", "TypeError", "back"),
        ("(event, context, callback) => callback('text')", "string", "text"),
        ("(event, context) => context.fail(new TypeError('f'))", "TypeError", "f"),
        ("(event, context) => context.fail()", "string", "handled"),
        ("(event, context) => context.done('d')", "string", "d"),
        ("async () => { throw 'only text' }", "string", "only text"),
        ("async () => { throw {toString: () => 'object'} }", "object", "object"),
        ("async () => { throw Object.assign(new Error('m'), {name: 'Own'}) }", "Own", "m"),
        ("async () => { class Mine extends Error {} throw new Mine('m') }", "Error", "m"),
        ("async () => 1n", "Error", "Unable to stringify response body"),
        ("async () => { const a = []; a.push(a); return a }", "Error", "Unable to stringify response body"),
        ("() => Promise.reject(new EvalError('r'))", "EvalError", "r"),
    ],
)
def test_a_handler_may_fail_in_every_way_of_node(
    major: str, code: str, kind: str, message: str, tmp_path: Path
) -> None:
    code_dir = _write(tmp_path, {"index.js": f"exports.handler = {code};"})
    with _start(major, "index.handler", code_dir) as process:
        for _ in range(2):
            report = process.invoke()
            error = json.loads(report.body)
            assert report.path == f"/invocation/{REQUEST_ID}/error"
            assert (error["errorType"], error["errorMessage"]) == (kind, message)
            assert report.headers["Lambda-Runtime-Function-Error-Type"] == kind
            if kind in ("string", "object"):
                assert error["trace"] == []
            elif "stringify" not in message:
                assert re.match(rf"(Error|{kind}): {message}$", error["trace"][0])
                assert str(code_dir / "index.js") in error["trace"][1]
        process.wait_ready()
        process.wait_ready()
    assert f'\t{REQUEST_ID}\tERROR\tInvoke Error \t{{"errorType":' in process.output


@pytest.mark.parametrize(
    ("handler", "status", "kind", "message"),
    [
        ("rejection.handler", 128, "Runtime.UnhandledPromiseRejection", "TypeError: nobody catches this"),
        ("rejection.exception", 129, "TypeError", "nobody catches this either"),
    ],
)
def test_errors_that_nobody_catches_end_the_process(
    major: str, handler: str, status: int, kind: str, message: str
) -> None:
    with _start(major, handler) as process:
        report = process.invoke()
        assert process.ends() == status
    error = json.loads(report.body)
    assert report.path == f"/invocation/{REQUEST_ID}/error"
    assert (error["errorType"], error["errorMessage"]) == (kind, message)


def test_an_error_while_nothing_runs_ends_the_process(major: str, tmp_path: Path) -> None:
    code = "setTimeout(() => Promise.reject(new Error('later')), 100); exports.handler = async () => {}"
    with _start(major, "index.handler", _write(tmp_path, {"index.js": code})) as process:
        assert process.ends() == 128
        assert process.api.reports.empty()
    assert "ERROR\tUnhandled Promise Rejection \t" in process.output


def test_an_error_that_nobody_catches_in_a_stream(major: str, tmp_path: Path) -> None:
    code = """exports.handler = awslambda.streamifyResponse(async (event, stream) => {
      stream.write('begun');
      setTimeout(() => { throw new TypeError('outside'); }, 1);
      await new Promise(() => {});
    });"""
    with _start(major, "index.handler", _write(tmp_path, {"index.js": code})) as process:
        report = process.invoke()
        assert process.ends() == 129
    assert (report.body, report.trailers["Lambda-Runtime-Function-Error-Type"]) == (b"begun", "TypeError")


@pytest.mark.parametrize("status", [0, 5])
def test_a_handler_that_exits_reports_nothing(major: str, status: int) -> None:
    with _start(major, "exits.handler") as process:
        process.send(json.dumps({"status": status}).encode())
        assert process.ends() == status
        assert process.api.reports.empty()


def test_an_event_that_is_no_json(major: str) -> None:
    with _start(major, "echo.handler") as process:
        report = process.invoke(b'{"a": tru}')
        assert (report.ending, json.loads(report.body)["errorType"]) == ("error", "SyntaxError")
        assert _answer(process, 1) == ("response", 1)


def test_the_context_has_what_awss_has(major: str) -> None:
    with _start(major, "context.handler") as process:
        report = process.invoke(
            Client_Context='{"custom": {"k": "ü"}}'.encode().decode("latin-1"),
            Cognito_Identity='{"cognitoIdentityId": "i", "cognitoIdentityPoolId": "p"}',
            Trace_Id="Root=1",
        )
        context = json.loads(report.body)
        assert context.pop("node").split(".")[0] == major
        assert context == {
            "functionName": "sample",
            "functionVersion": "$LATEST",
            "invokedFunctionArn": ARN,
            "memoryLimitInMB": "128",
            "awsRequestId": REQUEST_ID,
            "logGroupName": "/aws/lambda/sample",
            "logStreamName": "stream",
            "callbackWaitsForEmptyEventLoop": True,
            "remaining": "number",
            "identity": {"cognitoIdentityId": "i", "cognitoIdentityPoolId": "p"},
            "clientContext": {"custom": {"k": "ü"}},
            "traceId": "Root=1",
        }
        second = _answer(process)[1]
        assert "clientContext" not in second
        assert "traceId" not in second


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_log_lines_look_like_awss(major: str) -> None:
    with _start(major, "logs.handler") as process:
        process.invoke()
        process.wait_ready()
        process.wait_ready()
    assert _TIME.sub("<time>", process.output) == (
        "<time>\tundefined\tINFO\tat import\n"
        f"<time>\t{REQUEST_ID}\tINFO\ttext and {{ a: 1 }}\n"
        f"<time>\t{REQUEST_ID}\tINFO\tinfo\n"
        f"<time>\t{REQUEST_ID}\tDEBUG\tdebug\n"
        f"<time>\t{REQUEST_ID}\tWARN\twarn\n"
        f"<time>\t{REQUEST_ID}\tERROR\terror with a cause\n"
        "raw\n"
    )


def test_log_lines_in_json(major: str) -> None:
    with _start(major, "logs.handler", AWS_LAMBDA_LOG_FORMAT="JSON", AWS_LAMBDA_LOG_LEVEL="WARN") as process:
        process.invoke()
        process.wait_ready()
        process.wait_ready()
    lines = process.output.splitlines()
    assert lines.pop() == "raw"
    assert [(json.loads(line)["level"], json.loads(line)["message"]) for line in lines] == [
        ("WARN", "warn"),
        ("ERROR", "error with a cause"),
    ]
    assert json.loads(lines[0])["requestId"] == REQUEST_ID


def test_a_streaming_handler_answers_in_parts(major: str) -> None:
    parts = ["one ü ", "two ", "x" * 300_000]
    with _start(major, "streams.handler") as process:
        for _ in range(2):
            report = process.invoke(json.dumps({"parts": parts}).encode())
            assert report.path == f"/invocation/{REQUEST_ID}/response"
            assert report.body.decode() == "".join(parts)
            assert report.headers["Lambda-Runtime-Function-Response-Mode"] == "streaming"
            assert report.headers["Content-Type"] == "text/plain"
            assert report.trailers == {}
        assert process.api.connections == 1


def test_a_stream_that_fails_says_so_in_its_trailers(major: str) -> None:
    with _start(major, "streams.handler") as process:
        report = process.invoke(b'{"parts": ["begun"], "fail": "midway"}')
        assert report.body == b"begun"
        assert report.trailers["Lambda-Runtime-Function-Error-Type"] == "RangeError"
        error = json.loads(base64.b64decode(report.trailers["Lambda-Runtime-Function-Error-Body"]))
        assert (error["errorType"], error["errorMessage"]) == ("RangeError", "midway")
        assert process.invoke(b'{"parts": ["next"]}').body == b"next"


def test_a_stream_that_is_never_ended(major: str, tmp_path: Path) -> None:
    code = "exports.handler = awslambda.streamifyResponse(async (event, stream) => { stream.write('begun'); });"
    with _start(major, "index.handler", _write(tmp_path, {"index.js": code})) as process:
        report = process.invoke()
        assert report.body == b"begun"
        assert report.trailers["Lambda-Runtime-Function-Error-Type"] == "string"
        assert process.invoke().body == b"begun"


def test_a_page_streams_its_head_first(major: str) -> None:
    with _start(major, "streams.page") as process:
        report = process.invoke()
    assert report.headers["Content-Type"] == "application/vnd.awslambda.http-integration-response"
    head, _, body = report.body.partition(bytes(8))
    assert (json.loads(head), body) == ({"statusCode": 201, "headers": {"x-part": "one"}}, b"body")


def test_warm_calls_share_process_and_connection(major: str, tmp_path: Path) -> None:
    code = "let n = 0; exports.handler = async () => ++n;"
    with _start(major, "index.handler", _write(tmp_path, {"index.js": code})) as process:
        assert [_answer(process)[1] for _ in range(20)] == list(range(1, 21))
        assert process.api.connections == 1


def test_six_megabytes_both_ways(major: str) -> None:
    text = json.dumps("x" * 6_000_000 + "ü", ensure_ascii=False).encode()
    with _start(major, "echo.handler") as process:
        assert process.invoke(text).body == text
        assert process.invoke(b'"small"').body == b'"small"'


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunked", [False, True])
def test_responses_that_arrive_in_pieces(major: str, seed: int, chunked: bool) -> None:
    documents = [{"n": n, "text": "ü" * n} for n in (0, 1, 50, 3000)] + [{"text": "x" * 300_000}]
    with _start(major, "echo.handler") as process:
        process.api.cut = runtime_api.cut_by(seed)
        process.api.chunked = chunked
        for document in documents:
            assert _answer(process, document) == ("response", document)
        assert process.api.connections == 1


def test_a_server_that_closes_each_connection(major: str) -> None:
    with _start(major, "echo.handler") as process:
        process.api.closes = True
        assert [_answer(process, n)[1] for n in range(3)] == [0, 1, 2]
        assert process.api.connections >= 3


def test_ends_when_the_api_is_gone(major: str) -> None:
    with _start(major, "echo.handler") as process:
        process.wait_ready()
        process.api.events.put(None)
        assert process.ends() == 1


def test_a_refused_response_is_no_end(major: str) -> None:
    with _start(major, "echo.handler") as process:
        process.api.status = 413
        process.invoke(b'"too large"')
        process.api.status = 202
        assert _answer(process, "next") == ("response", "next")
    assert "Failed to post handler success response. Http response code: 413." in process.output


def test_a_response_that_is_refused_before_it_is_read_is_no_end(major: str, tmp_path: Path) -> None:
    code = "exports.handler = async (event) => 'x'.repeat(event.bytes - 2);"
    with _start(major, "index.handler", _write(tmp_path, {"index.js": code})) as process:
        process.api.hasty = True
        process.send(b'{"bytes": 20000000}')
        process.wait_ready()
        process.wait_ready()
        process.api.hasty = False
        assert process.invoke(b'{"bytes": 4}').body == b'"xx"'
    assert "Failed to post handler success response. Http response code: " in process.output


def test_signals_reach_a_waiting_runtime(major: str, tmp_path: Path) -> None:
    code = "process.on('SIGTERM', () => process.exit(3)); exports.handler = async () => 1;"
    with _start(major, "index.handler", _write(tmp_path, {"index.js": code})) as process:
        process.invoke()
        process.wait_ready()
        process.wait_ready()
        process.process.send_signal(signal.SIGTERM)
        assert process.ends() == 3


def test_nothing_of_ours_is_in_the_functions_reach(major: str, tmp_path: Path) -> None:
    code = """
    const names = Object.getOwnPropertyNames(globalThis);
    exports.handler = async () => [names, process.argv.length, require.main === module, Object.keys(process.env)];
    """
    with _start(major, "index.handler", _write(tmp_path, {"index.js": code})) as process:
        names, arguments, is_main, variables = _answer(process)[1]
    places = os.pathsep.join(os.get_exec_path())
    node = next(interpreters.find_node(major, places)).executable
    plain = _plain_globals(node)
    assert set(names) - plain <= {"awslambda", "gc"}
    assert (arguments, is_main) == (2, False)
    assert not [name for name in variables if "EVERWARM" in name]


def _plain_globals(node: str) -> set[str]:
    done = subprocess.run(
        [node, "-p", "JSON.stringify(Object.getOwnPropertyNames(globalThis))"], capture_output=True, check=True
    )
    return set(json.loads(done.stdout))


def test_modules_named_like_the_clients_own(major: str, tmp_path: Path) -> None:
    for name in ("api", "errors", "handler", "logs", "stream", "bootstrap"):
        shutil.rmtree(tmp_path, ignore_errors=True)
        code_dir = _write(tmp_path, {f"{name}.js": "exports.handler = async () => __filename;"})
        with _start(major, f"{name}.handler", code_dir) as process:
            assert _answer(process)[1] == str(code_dir / f"{name}.js")


def test_the_installed_copies_of_the_client_run(major: str, tmp_path: Path) -> None:
    clients = install_clients(tmp_path / "clients")
    assert sorted(path.name for path in (clients / "node").iterdir()) == sorted(
        path.name for path in (CLIENTS / "node").iterdir()
    )
