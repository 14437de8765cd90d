"""Every call has its own context: id, ARN as it was called, version, client context, remaining time; and the
environment variables that AWS documents, no others of the server's."""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any, Final

import pytest

from tests.services.calls import wait_until_handed_back
from tests.services.functions import Functions

CHECKOUT: Final = Path(__file__).parents[2]


def client_context(document: Any) -> str:
    """As the SDKs send it."""
    return base64.b64encode(json.dumps(document, ensure_ascii=False).encode()).decode()


def test_a_python_handler_sees_its_context(functions: Functions) -> None:
    name = functions.sample("context", Timeout=7, MemorySize=192)
    answer = functions.invoke(name, {})
    found = answer.json
    assert found["function_name"] == name
    assert found["function_version"] == "$LATEST"
    assert found["invoked_function_arn"] == functions.arn(name)
    assert found["memory_limit_in_mb"] == "192"
    assert found["aws_request_id"] == answer.request_id
    assert found["log_group_name"] == f"/aws/lambda/{name}"
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", found["log_stream_name"])
    assert 5000 < found["remaining_ms"] <= 7000
    assert found["client"] is None
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=[01].*", found["trace_id"])


def test_a_node_handler_sees_its_context(functions: Functions) -> None:
    name = functions.sample("context", "node", MemorySize=192)
    context = {"custom": {"a": "ä"}, "env": {"locale": "de"}, "client": {"installation_id": "i"}}
    answer = functions.invoke(name, {}, ClientContext=client_context(context))
    found = answer.json
    assert found["functionName"] == name
    assert found["functionVersion"] == "$LATEST"
    assert found["invokedFunctionArn"] == functions.arn(name)
    assert found["memoryLimitInMB"] == "192"
    assert found["awsRequestId"] == answer.request_id
    assert found["clientContext"] == context
    assert found["remaining"] == "number"
    assert "clientContext" not in functions.invoke(name, {}).json


def test_each_call_has_its_own(functions: Functions) -> None:
    """One environment, every call different: none shows what another brought."""
    name = functions.sample("context")
    functions.client.create_alias(FunctionName=name, Name="live", FunctionVersion="$LATEST")
    first = functions.invoke(name, {}, ClientContext=client_context({"custom": {"number": "1"}}))
    wait_until_handed_back(functions, name)
    second = functions.invoke(
        name, {}, ClientContext=client_context({"custom": {"number": "2", "text": "日本 ä\u2028"}})
    )
    wait_until_handed_back(functions, name)
    third = functions.invoke(name, {}, Qualifier="$LATEST")
    wait_until_handed_back(functions, name)
    fourth = functions.invoke(name, {}, Qualifier="live")
    answers = [first, second, third, fourth]
    assert first.json["client"]["custom"] == {"number": "1"}
    assert second.json["client"]["custom"] == {"number": "2", "text": "日本 ä\u2028"}
    assert third.json["client"] is None
    assert [answer.json["invoked_function_arn"] for answer in answers] == [
        functions.arn(name), functions.arn(name), functions.arn(name, "$LATEST"), functions.arn(name, "live"),
    ]  # fmt: skip
    assert len({answer.request_id for answer in answers}) == 4
    assert [answer.json["aws_request_id"] for answer in answers] == [answer.request_id for answer in answers]
    assert len({answer.json["log_stream_name"] for answer in answers}) == (1 if functions.keeps_environment else 4)
    assert [answer.version for answer in answers] == ["$LATEST"] * 4


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("not base64!", "must be a valid Base64-encoded JSON object"),
        (base64.b64encode(b"{").decode(), "must be a valid Base64-encoded JSON object"),
        (client_context({"custom": {"x": "x" * 3600}}), "must be no more than 3583 bytes"),
    ],
)
def test_a_client_context_that_is_refused(functions: Functions, text: str, what: str) -> None:
    code, status, answer = functions.refused(functions.sample("echo"), {}, ClientContext=text)
    assert (code, status) == ("InvalidRequestContentException", 400)
    assert what in answer["Error"]["Message"]


def test_the_callers_trace_goes_on(functions: Functions) -> None:
    name = functions.sample("context")
    trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"

    def add(request: Any, **_: Any) -> None:
        request.headers["X-Amzn-Trace-Id"] = trace

    client = functions.stack.client()
    client.meta.events.register("before-send.lambda.Invoke", add)
    found = Functions(functions.stack, functions.kind, client).invoke(name, {}).json["trace_id"]
    assert found.startswith("Root=1-5759e988-bd862e3fe1be46a994272793;")


def test_variables_of_the_function(functions: Functions) -> None:
    variables = {"MY_VALUE": "ä ö $HOME 'x' \"y\"\n", "EMPTY": "", "PATHISH": "/a:/b"}
    name = functions.sample("env", Environment={"Variables": variables}, MemorySize=256)
    found = functions.invoke(name, {}).json["env"]
    assert {key: found[key] for key in variables} == variables
    assert found["AWS_LAMBDA_FUNCTION_NAME"] == name
    assert found["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert found["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    assert found["AWS_LAMBDA_LOG_GROUP_NAME"] == f"/aws/lambda/{name}"
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", found["AWS_LAMBDA_LOG_STREAM_NAME"])
    assert found["AWS_LAMBDA_INITIALIZATION_TYPE"] == "on-demand"
    assert found["_HANDLER"] == "env.handler"
    assert found["AWS_EXECUTION_ENV"] == f"AWS_Lambda_{functions.runtime('python')}"
    assert found["AWS_REGION"] == found["AWS_DEFAULT_REGION"] == "us-east-1"
    assert found["TZ"] == ":UTC"
    assert found["AWS_ENDPOINT_URL_LAMBDA"] == f"http://{found['AWS_LAMBDA_RUNTIME_API']}"
    assert {"LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} < set(found)
    assert "AWS_LAMBDA_FUNCTION_TIMEOUT" not in found


def test_nothing_of_the_server_leaks_in(functions: Functions) -> None:
    found = functions.invoke(functions.sample("env"), {}).json
    ours = {"PYTHONSAFEPATH", "VIRTUAL_ENV", "OLDPWD", "LOGNAME", "SHELL", "USER", *os.environ} - {
        "PATH", "LANG", "HOME", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "PWD", "SHLVL", "_", "LC_ALL", "LC_CTYPE",
    }  # fmt: skip
    assert not ours & set(found["env"])
    assert not [name for name in found["env"] if name.startswith(("EVERWARM_", "LAMBDA_KEEP", "CELERY"))]
    assert not [place for place in found["path"] if ".venv" in place or Path(place).is_relative_to(CHECKOUT)]
    assert found["cwd"] == found["env"]["LAMBDA_TASK_ROOT"]
    assert found["version"] == functions.runtime("python").removeprefix("python")


def test_initialisation_type_and_order_of_python_path(functions: Functions) -> None:
    found = functions.invoke(functions.sample("env"), {}).json
    assert found["env"]["LAMBDA_TASK_ROOT"] in found["path"]


def test_a_wrapper_script_starts_the_runtime(functions: Functions) -> None:
    """``AWS_LAMBDA_EXEC_WRAPPER`` is started with the runtime's command."""
    wrapper = '#!/bin/sh\nexport WRAPPED="$#"\nexec "$@"\n'
    name = functions.create(
        {"index.py": "import os\ndef handler(event, context):\n    return os.environ['WRAPPED']\n", "wrapper": wrapper},
        "index.handler",
        Environment={"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/wrapper"}},
    )
    answer = functions.invoke(name, {})
    assert int(answer.json) >= 1
