"""Asynchronous invocations while everything dies around them: none that was answered 202 is lost, and each is counted.

What ran more than once is allowed by AWS and by this design, and printed: ``pytest -s tests/faults/test_events.py``.
"""

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from dispatcher.events.sizing import MOST
from tests.faults.events import NAME, Copies, Count, Trial, fill, quick, spread
from tests.faults.test_redis import frozen
from tests.services.postgres import PostgresServer
from tests.services.stack import Stack
from tests.services.waiting import wait_until
from workers.contract import keys
from workers.contract.messages import Outcome, encode

EVENTS = 5000
_SLOTS = "4"
#: Numbers of events that are made to run for long.
_LONG = frozenset(range(300, 306))


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
def small_disk() -> Iterator[Path]:
    """A disk of 64 MB, with nothing on it; it comes before what uses it, as ``own_server`` does."""
    place = Path(tempfile.mkdtemp(prefix="everwarm-test-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "everwarm-test", place], check=False, capture_output=True
    )
    try:
        if mounted.returncode:
            pytest.skip(f"this root may not mount: {mounted.stderr.decode()}")
        yield place
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "--lazy", place], check=True)
        place.rmdir()


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


def test_no_event_is_lost_when_a_worker_is_killed(
    make_trial: Callable[..., Trial], told: Callable[[Count], None]
) -> None:
    trial = make_trial()
    trial.send(EVENTS)
    for number in spread(2, EVENTS):
        trial.wait_until_run(number)
        trial.stack.restart("worker")
    told(trial.count())


def test_dispatcher_killed_after_202(make_trial: Callable[..., Trial], told: Callable[[Count], None]) -> None:
    trial = make_trial()
    senders = trial.send(EVENTS)
    for number in spread(4, EVENTS):
        senders.wait_until_accepted(number)
        trial.stack.restart("dispatcher")
    told(trial.count())


def test_no_event_is_lost_when_redis_is_killed(make_trial: Callable[..., Trial], told: Callable[[Count], None]) -> None:
    trial = make_trial()
    trial.send(EVENTS)
    for number in spread(2, EVENTS):
        trial.wait_until_run(number)
        trial.stack.redis.restart()
    told(trial.count())


def test_all_killed_at_once(
    own_server: PostgresServer | None, make_trial: Callable[..., Trial], told: Callable[[Count], None]
) -> None:
    trial = make_trial(own_server)
    stack = trial.stack
    senders = trial.send(EVENTS)
    for number in spread(2, EVENTS):
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


def test_no_event_is_lost_when_the_database_is_killed(
    own_server: PostgresServer | None, make_trial: Callable[..., Trial], told: Callable[[Count], None]
) -> None:
    if own_server is None:
        pytest.skip("SQLite is no process")
    trial = make_trial(own_server)
    senders = trial.send(EVENTS)
    for number in spread(3, EVENTS):
        senders.wait_until_accepted(number)
        own_server.kill9()
        own_server.start()
    told(trial.count())


@pytest.mark.timeout(240)  # it may be away for 60 s, and all events are counted after that
def test_redis_away_for_20_s(
    database: PostgresServer | None, make_trial: Callable[..., Trial], told: Callable[[Count], None]
) -> None:
    trial = make_trial()
    redis = trial.stack.redis
    senders = trial.send(EVENTS)
    senders.wait_until_accepted(EVENTS // 5)

    def wait_20_s() -> None:
        began, before = time.monotonic(), senders.accepted
        wait_until("everything is accepted without Redis", lambda: senders.accepted >= EVENTS, 60)
        assert senders.accepted > before, "all had been accepted before"
        wait_until("it has been away for 20 s", lambda: time.monotonic() - began > 20, 21, every_s=0.2)

    # To the ledger it is all one whether Redis hangs or is down, and each takes its time: one on each database.
    if database is None:
        with frozen(redis.pid):
            wait_20_s()
    else:
        redis.kill9()
        wait_20_s()
        redis.start()
    told(trial.count())


def test_messages_delivered_three_times(make_trial: Callable[..., Trial], told: Callable[[Count], None]) -> None:
    trial = make_trial()
    trial.stack.add_worker()
    with Copies(trial.stack) as copies:
        trial.send(EVENTS)
        count = trial.count()
    told(count)
    print(f"{len(copies.messages)} messages were delivered three times")
    assert len(copies.messages) >= 10
    assert count.again == 0, "claims let an attempt run once"


def test_frozen_worker_is_too_late(make_trial: Callable[..., Trial], told: Callable[[Count], None]) -> None:
    trial = make_trial()
    stack, ledger = trial.stack, trial.ledger
    # The function's own timeout passes too.
    trial.client.update_function_configuration(FunctionName=NAME, Timeout=8)
    senders = trial.send(EVENTS, lambda number: b'{"n": %d, "s": 3}' % number if number in _LONG else quick(number))
    frozen_pid = stack.pid("worker")
    _wait_until_a_long_one_begins(trial)
    with frozen(frozen_pid):
        began = time.monotonic()
        held = ledger.rows("SELECT request_id FROM events WHERE state = 'fed'")
        stack.start_part("second worker")
        senders.wait()
        trial.wait_until_ended_in_ledger()
        wait_until("the function's time is up", lambda: time.monotonic() - began > 8, 10, every_s=0.2)
        before = ledger.everything()
        died = ledger.rows("SELECT event_id FROM attempts WHERE kind = 'died'")
        assert held
        assert died, "nothing ran on the frozen worker"
    wait_until("it is back", lambda: len(stack.workers()) == 2)
    count = trial.count()
    told(count)
    assert ledger.everything() == before, "a late outcome changed something"
    # What its claims would have stopped: the ledger's own fence.
    (late,) = ledger.rows(f"SELECT request_id FROM events WHERE id = {died[0][0]}")
    for attempt in (1, 2):
        outcome = Outcome(request_id=late[0], attempt=attempt, kind="function_error", payload=b"{}", ended_ms=1)
        stack.redis.client.xadd(keys.OUTCOMES, {"o": encode(outcome)})
    trial.wait_until_ended()
    assert ledger.everything() == before


def _wait_until_a_long_one_begins(trial: Trial) -> None:
    def begun() -> int:
        return sum(number in _LONG for number, _ in trial.runs)

    before = begun()
    wait_until("a long one begins", lambda: begun() > before, 30)


def test_stopped_workers_events_are_fed_again_at_once(
    make_trial: Callable[..., Trial], told: Callable[[Count], None]
) -> None:
    trial = make_trial(EVERWARM_DRAIN_S="1")
    stack, ledger = trial.stack, trial.ledger
    senders = trial.send(EVENTS, lambda number: b'{"n": %d, "s": 2}' % number if number in _LONG else quick(number))
    senders.wait_until_accepted(max(_LONG))
    for _ in range(2):
        _wait_until_a_long_one_begins(trial)
        began = time.monotonic()
        stack.stop("worker", 10)
        took = time.monotonic() - began
        assert took < 9, f"stopping took {took:.1f} s"
        (tries,) = ledger.rows("SELECT max(tries) FROM events WHERE state IN ('queued', 'fed')")
        assert tries[0] in {0, None}
        stack.start_part("worker")
        stack.wait_until_ready()
    count = trial.count()
    told(count)
    assert count.attempts.get("interrupted")
    # A message that is on its way to the worker in the moment it stops may be gone (celery issue 7950); it is found and fed
    # again. Everything else went back at once.
    assert count.attempts.keys() <= {"success", "interrupted", "lost"}
    assert count.attempts.get("lost", 0) <= 2 * MOST


def _database_on(disk: Path, server: PostgresServer) -> str:
    """A database whose tables stand there; PostgreSQL's own log stays where it has room, or it would end."""
    url = server.new_database()
    place = disk / "tables"
    place.mkdir()
    parts = urlsplit(url)
    owner = Path(parts.query.removeprefix("host=")).stat()
    os.chown(place, owner.st_uid, owner.st_gid)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(str(place)))
        connection.execute("CREATE DATABASE on_small TABLESPACE small")
    return parts._replace(path="/on_small").geturl()


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_no_accepted_event_is_lost_when_the_disk_is_full(
    small_disk: Path,
    own_server: PostgresServer | None,
    make_trial: Callable[..., Trial],
    told: Callable[[Count], None],
) -> None:
    if own_server is None:
        trial = make_trial(EVERWARM_DATA=str(small_disk))
    else:
        trial = make_trial(url=_database_on(small_disk, own_server))
    senders = trial.send(EVENTS)
    senders.wait_until_accepted(EVENTS // 3)
    ballast = small_disk / "ballast"
    fill(ballast)
    senders.wait_until_refused_only()
    ballast.unlink()
    count = trial.count()
    told(count)
    assert count.refused
    assert count.kept == count.accepted, "an event that was refused is in the ledger"


def test_no_accepted_event_is_lost_when_files_may_not_grow(
    database: PostgresServer | None, make_trial: Callable[..., Trial], told: Callable[[Count], None]
) -> None:
    """What any user can do to SQLite's disk: the dispatcher's files may not grow."""
    if database is not None:
        pytest.skip("PostgreSQL's files are its own business")
    trial = make_trial()
    senders = trial.send(EVENTS)
    senders.wait_until_accepted(EVENTS // 3)
    pid = trial.stack.pid("dispatcher")
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    senders.wait_until_refused_only()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    count = trial.count()
    told(count)
    assert count.refused
    assert count.kept == count.accepted
