"""Calls in a process of their own: one after another, or from many threads at once."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple, TypeVar

T = TypeVar("T")

#: Does one call and returns when its answer is there. Raises when the answer is wrong.
Call = Callable[[], None]
#: Connects, and answers a :data:`Call` for the thread that asked.
Connect = Callable[..., Call]

_connect: Callable[[], Call]


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    calls: int
    seconds: float
    starts: int
    containers: int
    """Calls of a mode that starts something for each of them."""


class Client:
    """A process that calls; ``connect`` and its arguments are pickled."""

    def __init__(self, connect: Connect, *arguments: str) -> None:
        self._pool = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_prepare, initargs=(connect, arguments)
        )

    def latencies(self, calls: int) -> list[float]:
        """Milliseconds of each of ``calls``, made one after another."""
        return self._result(self._pool.submit(_latencies, calls))

    def rate(self, threads: int, seconds: float) -> float:
        """Calls a second that ``threads`` make together."""
        return self._result(self._pool.submit(_rate, threads, seconds))

    @staticmethod
    def _result(future: "Future[T]") -> T:
        return future.result(60)

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _prepare(connect: Connect, arguments: tuple[str, ...]) -> None:
    global _connect  # noqa: PLW0603 - the process' one task
    _connect = lambda: connect(*arguments)  # noqa: E731


def _latencies(calls: int) -> list[float]:
    call = _connect()
    call()
    took = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        took.append((time.perf_counter() - began) * 1000)
    return took


def _rate(threads: int, seconds: float) -> float:
    counts = [0] * threads
    failures: list[Exception] = []
    ready = threading.Barrier(threads + 1)
    stop = threading.Event()

    def run(index: int) -> None:
        try:
            call = _connect()
            call()
            ready.wait()
            while not stop.is_set():
                call()
                counts[index] += 1
        except Exception as error:  # noqa: BLE001 - raised by the thread that started this one
            failures.append(error)
            ready.abort()

    workers = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    try:
        ready.wait(30)
        before = sum(counts)
        began = time.perf_counter()
        time.sleep(seconds)
        done = sum(counts) - before
        took = time.perf_counter() - began
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    if failures:
        raise failures[0]
    return done / took
