"""Asynchronous invocations while everything dies around them: none that was answered 202 is lost, and each is counted.

What ran more than once is allowed by AWS and by this design, and printed: ``pytest -s tests/faults/test_events.py``.
"""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults.events import Count, Trial, each_part
from tests.faults.test_redis import frozen
from tests.services.postgres import PostgresServer
from tests.services.stack import Stack
from tests.services.waiting import wait_until

EVENTS = 5000
_SLOTS = "4"


@pytest.fixture(scope="session")
def figures() -> Iterator[list[str]]:
    """Lines to be shown together when all tests have run."""
    lines: list[str] = []
    yield lines
    print("\n--- events, counted one by one", *lines, sep="\n")


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> PostgresServer | None:
    """What the ledger stands in; ``None``: a file."""
    return request.getfixturevalue("postgres_server") if request.param == "postgresql" else None


@pytest.fixture
def own_server(request: pytest.FixtureRequest, database: PostgresServer | None) -> PostgresServer | None:
    """As ``database``, for a test that kills it; it comes before ``make_trial``, so that it outlives the stack."""
    return request.getfixturevalue("own_postgres") if database is not None else None


@pytest.fixture
def make_trial(database: PostgresServer | None, make_stack: Callable[..., Stack]) -> Iterator[Callable[..., Trial]]:
    """Starts a stack with a function for this test alone."""
    trials: list[Trial] = []

    def make(postgres: PostgresServer | None = None, url: str = "", **environ: str) -> Trial:
        server = postgres or database
        if server is not None and not url:
            url = server.new_database()
        if url:
            environ["EVERWARM_DATABASE_URL"] = url
        trials.append(Trial(make_stack(**{"EVERWARM_CONCURRENCY": _SLOTS, **environ}), url))
        return trials[-1]

    yield make
    for trial in trials:
        trial.close()


@pytest.fixture
def told(request: pytest.FixtureRequest, figures: list[str]) -> Callable[[Count], None]:
    """Shows a count."""

    def tell(count: Count) -> None:
        figures.append(f"{request.node.name}: {count}")
        print(f"\n{figures[-1]}")

    return tell


def test_nothing_happens(make_trial: Callable[..., Trial], told: Callable[[Count], None]) -> None:
    trial = make_trial()
    trial.send(EVENTS)
    count = trial.count()
    told(count)
    assert count.again == 0
    assert count.attempts == {"success": count.kept}


def test_worker_killed(make_trial: Callable[..., Trial], told: Callable[[Count], None]) -> None:
    trial = make_trial()
    trial.send(EVENTS)
    for number in each_part(EVENTS, 3):
        trial.wait_until_run(number)
        trial.stack.restart("worker")
    told(trial.count())


def test_dispatcher_killed_after_202(make_trial: Callable[..., Trial], told: Callable[[Count], None]) -> None:
    trial = make_trial()
    senders = trial.send(EVENTS)
    for number in each_part(EVENTS, 5):
        senders.wait_until_accepted(number)
        trial.stack.restart("dispatcher")
    told(trial.count())


def test_redis_killed(make_trial: Callable[..., Trial], told: Callable[[Count], None]) -> None:
    trial = make_trial()
    trial.send(EVENTS)
    for number in each_part(EVENTS, 3):
        trial.wait_until_run(number)
        trial.stack.redis.restart()
    told(trial.count())


def test_all_killed_at_once(
    own_server: PostgresServer | None, make_trial: Callable[..., Trial], told: Callable[[Count], None]
) -> None:
    trial = make_trial(own_server)
    stack = trial.stack
    senders = trial.send(EVENTS)
    for number in each_part(EVENTS, 2):
        senders.wait_until_accepted(number)
        trial.wait_until_run(number // 4)
        stack.kill9("dispatcher")
        stack.kill9("worker")
        stack.redis.kill9()
        if own_server is not None:
            own_server.kill9()
            own_server.start()
        stack.redis.start()
        stack.start_part("dispatcher")
        stack.start_part("worker")
        stack.wait_until_ready()
    told(trial.count())


def test_database_killed(
    own_server: PostgresServer | None, make_trial: Callable[..., Trial], told: Callable[[Count], None]
) -> None:
    if own_server is None:
        pytest.skip("SQLite is no process")
    trial = make_trial(own_server)
    senders = trial.send(EVENTS)
    for number in each_part(EVENTS, 3):
        senders.wait_until_accepted(number)
        own_server.kill9()
        own_server.start()
    told(trial.count())


@pytest.mark.parametrize("how", ["frozen", "down"])
def test_redis_away_for_20_s(make_trial: Callable[..., Trial], told: Callable[[Count], None], how: str) -> None:
    trial = make_trial()
    redis = trial.stack.redis
    senders = trial.send(EVENTS)
    trial.wait_until_run(EVENTS // 5)

    def wait_20_s() -> None:
        began, before = time.monotonic(), senders.accepted
        wait_until("everything is accepted without Redis", lambda: senders.accepted >= EVENTS, 19)
        assert senders.accepted > before, "all had been accepted before"
        wait_until("it has been away for 20 s", lambda: time.monotonic() - began > 20, 21, every_s=0.2)

    if how == "frozen":
        with frozen(redis.pid):
            wait_20_s()
    else:
        redis.kill9()
        wait_20_s()
        redis.start()
    told(trial.count())
