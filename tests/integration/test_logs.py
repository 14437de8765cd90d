"""The functions' logs with several dispatchers, and with readers that follow them when everything stops."""

import asyncio
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis

from dispatcher.function_logs import Logs
from tests.services.functions import Functions
from tests.services.redis import RedisServer
from tests.services.stack import Stack
from tests.services.waiting import wait_until
from workers.contract import keys


def test_one_dispatcher_stores_at_a_time(redis_server: RedisServer, tmp_path: Path) -> None:
    client = redis.Redis.from_url(redis_server.url)
    stream = keys.log("000000000000", "us-east-1", "f")

    def write(text: str) -> None:
        client.xadd(stream, {"c": text})
        client.expire(stream, 60)
        client.zadd(keys.LOGS, {stream: 1})

    async def run() -> None:
        first, second = (Logs(redis_server.url, tmp_path / name, 1 << 20) for name in ("first", "second"))
        write("a")
        assert await first.store_once() == 1
        write("b")
        assert await second.store_once() == 0
        assert 0 < client.pttl(keys.LOG_WRITER) <= 10_000
        assert await first.store_once() == 1
        await first.close()
        write("c")
        assert await second.store_once() == 1
        await second.close()

    asyncio.run(run())
    path = Path("000000000000", "us-east-1", "f.log")
    assert (tmp_path / "first" / path).read_text() == "ab"
    assert (tmp_path / "second" / path).read_text() == "c"
    assert not client.exists(keys.LOG_WRITER)


def test_a_reader_that_follows_keeps_nothing_from_stopping(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(EVERWARM_DRAIN_S="30")
    functions = Functions(stack)
    name = functions.python("def handler(event, context):\n    print('said')\n")
    assert functions.invoke(name, {}).error is None
    wait_until("its log is stored", lambda: stack.get(f"/_everwarm/logs/{name}")[0] == 200)
    with urllib.request.urlopen(f"{stack.endpoint}/_everwarm/logs/{name}?follow=1", timeout=10) as followed:
        assert followed.readline()
        began = time.monotonic()
        stack.stop("dispatcher", 40)
        assert time.monotonic() - began < 15
        assert b"said" in followed.read()


def test_calls_that_run_when_all_time_is_over_are_answered(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(EVERWARM_DRAIN_S="0.5")
    functions = Functions(stack)
    name = functions.sample("sleeps", Timeout=60)
    functions.invoke(name, {"seconds": 0})
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(functions.refused, name, {"seconds": 40})
        wait_until("it runs", lambda: b"calls_waiting 1" in stack.get("/_everwarm/metrics")[1])
        stack.stop("dispatcher", 15)
        assert call.result()[:2] == ("ServiceException", 503)
