"""``everwarm up``: it stops in time and leaves nothing, however it ends, and starts again what died."""

import json
import os
import signal
import stat
import threading
import time
from collections.abc import Callable

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.services.code import zip_of
from tests.services.local import python_runtime
from tests.services.processes import look
from tests.services.redis import RedisServer
from tests.services.signals import ignored
from tests.services.up import Up
from tests.services.waiting import wait_until

Start = Callable[..., Up]
SLOW = "import time\ndef handler(event, context):\n    time.sleep(event['s'])\n    return event\n"


def create(up: Up, name: str = "slow") -> None:
    client = up.client()
    client.create_function(
        FunctionName=name,
        Runtime=python_runtime(),
        Handler="index.handler",
        Role="arn:aws:iam::000000000000:role/r",
        Code={"ZipFile": zip_of(index__py=SLOW)},
        Timeout=60,
    )
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})


def invoke(up: Up, seconds: float = 0, name: str = "slow") -> object:
    response = up.client().invoke(FunctionName=name, Payload=json.dumps({"s": seconds}).encode())
    return json.loads(response["Payload"].read())


def answers(up: Up, seconds: float = 0) -> bool:
    try:
        return invoke(up, seconds) == {"s": seconds}
    except (BotoCoreError, ClientError) as error:
        print(f"{time.monotonic():.2f} {error}")
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_ignored_at_the_start_stops_everything(up: Start, number: signal.Signals) -> None:
    with ignored(signal.SIGINT, signal.SIGTERM):
        one = up()
    one.wait_until_ready()
    one.process.send_signal(number)
    assert one.process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_within_ten_seconds(up: Start, number: signal.Signals) -> None:
    one = up().wait_until_ready()
    create(one)
    assert invoke(one) == {"s": 0}
    assert len(one.tree()) >= 5  # itself, Redis, dispatcher, worker, relay and runtime
    began = time.monotonic()
    one.process.send_signal(number)
    assert one.process.wait(10) == 0
    assert time.monotonic() - began < 10
    one.wait_until_nothing_is_left(2)
    assert "Traceback" not in one.output()
    assert "error" not in one.output()


def test_a_running_call_is_answered_before_it_stops(up: Start) -> None:
    one = up().wait_until_ready()
    create(one)
    answered: list[object] = []
    call = threading.Thread(target=lambda: answered.append(invoke(one, 2)))
    call.start()
    wait_until("the call runs", lambda: any("index" in p.command or "bootstrap" in p.command for p in one.tree()))
    one.process.send_signal(signal.SIGTERM)
    call.join(15)
    assert answered == [{"s": 2}]
    assert one.process.wait(10) == 0


def test_a_second_signal_stops_at_once(up: Start) -> None:
    one = up(EVERWARM_DRAIN_S="60").wait_until_ready()
    create(one)
    call = threading.Thread(target=lambda: answers(one, 50))
    call.start()
    wait_until("the call runs", lambda: any("bootstrap" in process.command for process in one.tree()))
    one.process.send_signal(signal.SIGINT)
    # Two signals that are sent at once arrive as one.
    wait_until("it is stopping", lambda: "Everwarm stops" in one.output())
    began = time.monotonic()
    one.process.send_signal(signal.SIGINT)
    one.process.wait(5)
    assert time.monotonic() - began < 5
    call.join(10)
    one.wait_until_nothing_is_left(5)


def test_kill_9_leaves_no_process(up: Start) -> None:
    one = up("--workers", "2").wait_until_ready()
    create(one)
    assert invoke(one) == {"s": 0}
    assert len(one.tree()) >= 6
    one.process.kill()
    one.process.wait()
    one.wait_until_nothing_is_left(5)


@pytest.mark.parametrize("word", ["workers", "dispatcher.cli dispatcher", "redis-server"])
def test_a_part_that_died_is_started_again(up: Start, word: str) -> None:
    one = up().wait_until_ready()
    create(one)
    assert invoke(one) == {"s": 0}
    dead = one.part(word)
    os.kill(dead.pid, signal.SIGKILL)
    # Until all its threads are gone, Redis may still hand it a call.
    wait_until("the part is gone", lambda: look(dead.pid) is None)
    wait_until("it serves again", lambda: answers(one), 10, every_s=0.1)
    assert "was killed by signal 9; it is started again in" in one.output()


def test_what_it_keeps_is_for_this_user_only(up: Start) -> None:
    one = up().wait_until_ready()
    create(one)
    data = one.data / "data"
    modes = {
        path: stat.S_IMODE(path.lstat().st_mode) for path in (data, *(data / "redis").rglob("*"), *data.glob("*.db*"))
    }
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o066} == {}


def test_the_functions_stay_over_a_restart(up: Start) -> None:
    one = up().wait_until_ready()
    create(one)
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(10) == 0
    two = up("--data", str(one.data / "data")).wait_until_ready()
    assert invoke(two) == {"s": 0}


def test_a_redis_that_evicts_is_refused_at_start(up: Start, redis_server: RedisServer) -> None:
    client = redis_server.client
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        one = up(EVERWARM_REDIS_URL=redis_server.url)
        assert one.process.wait(20) == 2
        assert "maxmemory-policy is allkeys-lru" in one.output()
    finally:
        client.config_set("maxmemory-policy", "noeviction")
