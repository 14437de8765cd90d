"""``everwarm ps`` and ``everwarm logs`` against a running stack."""

import json
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from dispatcher.cli.process import spawn
from tests.services.code import zip_of
from tests.services.commands import COMMAND, clean_environ, everwarm
from tests.services.local import python_runtime
from tests.services.processes import free_port
from tests.services.signals import ignored
from tests.services.stack import Stack
from tests.services.up import Up
from tests.services.waiting import wait_until


def test_ps_and_logs_show_what_ran(stack: Stack) -> None:
    client = stack.client()
    client.create_function(
        FunctionName="watched",
        Runtime=python_runtime(),
        Handler="index.handler",
        Role="arn:aws:iam::000000000000:role/r",
        Code={
            "ZipFile": zip_of(
                index__py="def handler(event, context):\n    print('first line')\n    print('<b>[red]')\n"
            )
        },
    )
    client.get_waiter("function_active_v2").wait(FunctionName="watched", WaiterConfig={"Delay": 1})
    client.invoke(FunctionName="watched", Payload=b"{}")

    done = everwarm("ps", "--json", "--endpoint", stack.endpoint)
    assert (done.status, done.err) == (0, "")
    (row,) = [row for row in json.loads(done.out)["environments"] if row["function"] == "watched"]
    assert (row["version"], row["mode"], row["state"]) == ("$LATEST", "local", "idle")
    assert set(row) >= {"id", "function", "version", "mode", "channel", "state", "worker", "container", "last_use"}
    shown = everwarm("ps", "--endpoint", stack.endpoint)
    assert shown.out.splitlines()[0].split() == [
        "ID", "FUNCTION", "VERSION", "MODE", "CHANNEL", "STATE", "WORKER", "CONTAINER", "LAST", "USE",
    ]  # fmt: skip
    assert row["id"] in shown.out

    def whole_log() -> str:
        text = everwarm("logs", "watched", "--endpoint", stack.endpoint).out
        return text if "REPORT" in text else ""

    text = wait_until("the log is stored", whole_log, every_s=0.2)
    assert "first line" in text
    assert "<b>[red]" in text


@pytest.mark.parametrize(
    ("inherited", "number", "status"),
    [
        pytest.param("default", signal.SIGINT, 0, id="Ctrl-C"),
        pytest.param("ignored", signal.SIGINT, 0, id="SIGINT that is ignored at the start"),
        pytest.param("ignored", signal.SIGTERM, -signal.SIGTERM, id="SIGTERM that is ignored at the start"),
    ],
)
def test_logs_follow_until_interrupted(
    stack: Stack, tmp_path: Path, inherited: str, number: signal.Signals, status: int
) -> None:
    client = stack.client()
    function = f"followed-{inherited}-{number.name}"
    client.create_function(
        FunctionName=function,
        Runtime=python_runtime(),
        Handler="index.handler",
        Role="arn:aws:iam::000000000000:role/r",
        Code={"ZipFile": zip_of(index__py="def handler(event, context):\n    print('line', event['n'])\n")},
    )
    client.get_waiter("function_active_v2").wait(FunctionName=function, WaiterConfig={"Delay": 1})
    client.invoke(FunctionName=function, Payload=b'{"n": 1}')
    out = tmp_path / "out"
    started_with = ignored(signal.SIGINT, signal.SIGTERM) if inherited == "ignored" else nullcontext()
    with out.open("wb") as output, started_with:
        argv = [*COMMAND, "logs", "-f", function, "--endpoint", stack.endpoint]
        following = spawn(argv, clean_environ(), output=output)
    try:
        wait_until("the first line is there", lambda: "line 1" in out.read_text())
        client.invoke(FunctionName=function, Payload=b'{"n": 2}')
        wait_until("the second line follows", lambda: "line 2" in out.read_text())
        following.send_signal(number)
        assert following.wait(5) == status
    finally:
        following.kill()
        following.wait()
    assert out.read_text().count("line 1") == 1
    assert "Traceback" not in out.read_text()


def test_commands_sign_where_credentials_are_asked_for(up: Callable[..., Up]) -> None:
    environ = {"EVERWARM_CREDENTIALS": "AKIDSAMPLE:planted/secret:000000000001"}
    one = up(**environ).wait_until_ready()
    done = everwarm("ps", "--json", "--endpoint", one.endpoint, environ=environ)
    assert (done.status, json.loads(done.out)) == (0, {"environments": []})
    aws = {"AWS_ACCESS_KEY_ID": "AKIDSAMPLE", "AWS_SECRET_ACCESS_KEY": "planted/secret"}
    assert everwarm("ps", "--endpoint", one.endpoint, environ=aws).out == "no warm environments\n"
    for wrong in ({}, {**aws, "AWS_SECRET_ACCESS_KEY": "other"}):
        done = everwarm("ps", "--json", "--endpoint", one.endpoint, environ=wrong)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith(f"everwarm: server at {one.endpoint} answers 403: ")
        assert done.err.count("\n") == 1
    assert "planted" not in one.output()


def test_a_second_dispatcher_on_the_same_sqlite_is_refused(stack: Stack) -> None:
    done = everwarm("dispatcher", environ={**stack.environ, "EVERWARM_PORT": str(free_port())})
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"everwarm: another dispatcher already uses {stack.data}/everwarm.db")
    assert "EVERWARM_DATABASE_URL=postgresql://" in done.err
    assert done.err.count("\n") == 1


def test_a_database_that_is_gone_is_one_line(stack: Stack) -> None:
    url = f"postgresql://me:planted@127.0.0.1:{free_port()}/none"
    done = everwarm(
        "dispatcher", environ={**stack.environ, "EVERWARM_PORT": str(free_port()), "EVERWARM_DATABASE_URL": url}
    )
    assert done.status == 1
    assert "the catalog's database postgresql://" in done.err
    assert "can't be used" in done.err
    assert done.err.count("\n") == 1
    assert "planted" not in done.err


def test_a_port_in_use_is_one_line(stack: Stack, tmp_path: Path) -> None:
    done = everwarm("dispatcher", environ={**stack.environ, "EVERWARM_DATA": str(tmp_path)})
    assert done.status != 0
    assert "Traceback" not in done.err
    assert "ddress already in use" in done.err
