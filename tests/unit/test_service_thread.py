"""The thread of a service: it runs a step until it is stopped, and never dies in silence."""

import threading
from collections.abc import Callable

import pytest

from tests.services.waiting import wait_until
from workers.service_thread import ServiceThread


class Service:
    """A service that notes its runs, and what it died of."""

    def __init__(self, step: Callable[[], object] | None = None, pause_s: float = 0.0) -> None:
        self.runs = 0
        self.died: list[BaseException] = []
        self._step = step
        self.thread = ServiceThread("tried", self.run, lambda: pause_s, self.died.append, reports=(TimeoutError,))

    def run(self) -> None:
        self.runs += 1
        if self._step is not None:
            self._step()


def is_running() -> bool:
    return "tried" in {thread.name for thread in threading.enumerate()}


def failing(error: BaseException) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


def test_the_step_runs_until_the_service_is_stopped() -> None:
    service = Service()
    service.thread.start()
    wait_until("the step has run several times", lambda: service.runs > 3)
    assert not service.thread.stopped
    service.thread.stop(wait_s=5)
    assert not is_running()
    runs = service.runs
    assert service.thread.stopped
    assert runs == service.runs
    assert service.died == []


def test_the_pause_comes_before_the_first_run_and_stopping_ends_it() -> None:
    service = Service(pause_s=60)
    service.thread.start()
    service.thread.stop(wait_s=5)
    assert not is_running()
    assert service.runs == 0


def test_the_pause_is_asked_for_before_each_run() -> None:
    asked: list[int] = []
    runs: list[int] = []

    def pause_s() -> float:
        asked.append(len(runs))
        return 0.0 if len(runs) < 3 else 60.0

    thread = ServiceThread("tried", lambda: runs.append(len(asked)), pause_s, lambda _: None)
    thread.start()
    wait_until("it pauses for long", lambda: len(asked) == 4)
    thread.stop(wait_s=5)
    assert asked == [0, 1, 2, 3]
    assert runs == [1, 2, 3]


def test_without_a_wait_stopping_returns_while_the_step_still_runs() -> None:
    entered, release = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        release.wait(10)

    service = Service(block)
    service.thread.start()
    assert entered.wait(10)
    service.thread.stop()
    assert is_running()
    release.set()
    service.thread.stop(wait_s=5)
    assert not is_running()
    assert service.runs == 1


def test_a_service_that_was_never_started_can_be_stopped() -> None:
    Service().thread.stop(wait_s=5)


def test_a_step_that_raises_is_reported_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    error = ZeroDivisionError("boom")
    service = Service(failing(error))
    service.thread.start()
    wait_until("its death is reported", lambda: service.died)
    assert service.died == [error]
    assert service.runs == 1
    (record,) = caplog.records
    assert record.getMessage() == "service tried died"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_even_an_exit_is_a_death(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(failing(SystemExit()))
    service.thread.start()
    wait_until("its death is reported", lambda: service.died)
    assert isinstance(service.died[0], SystemExit)


def test_an_error_that_says_all_by_itself_is_reported_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(failing(TimeoutError("too late")))
    service.thread.start()
    wait_until("its death is reported", lambda: service.died)
    assert str(service.died[0]) == "too late"
    assert caplog.records == []


def test_one_run_by_hand_raises_what_the_step_raises() -> None:
    service = Service(failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        service.thread.run_once()
    assert service.died == []
