"""``everwarm ps`` and ``everwarm logs`` against a running stack."""

import json

from tests.services.code import zip_of
from tests.services.commands import everwarm
from tests.services.local import python_runtime
from tests.services.stack import Stack
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
