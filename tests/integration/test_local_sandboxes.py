"""Places of local environments: one in advance, and nothing left of any."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.processes import alive, look, wait_until_gone
from tests.services.waiting import wait_until
from workers.link.loop_thread import LoopThread
from workers.modes.local.cgroups import MemoryGroups
from workers.modes.local.sandboxes import Place, Places

UIDS = range(1_795_000_000, 1_795_000_100)


def _fail(error: BaseException) -> None:
    raise error


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    thread = LoopThread(_fail)
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[MemoryGroups]:
    run = tmp_path / f"everwarm-test-{os.getpid()}-{tmp_path.name}"
    run.mkdir()
    groups = MemoryGroups(run)
    yield groups
    groups.close()


@pytest.fixture
def places(tmp_path: Path, loop: LoopThread, memory: MemoryGroups) -> Iterator[Places]:
    directory = tmp_path / "environments"
    directory.mkdir()
    uids = UIDS if os.geteuid() == 0 else None
    made = Places(directory, uids, loop, memory, (tmp_path,), lambda _environment, _request: None)
    yield made
    made.close()
    assert list(directory.iterdir()) == []


def test_a_place_made_in_advance_is_taken_and_replaced(places: Places, tmp_path: Path, loop: LoopThread) -> None:
    first = _take(places, tmp_path)
    second = _take(places, tmp_path)

    assert first.relay.pid != second.relay.pid
    for place in (first, second):
        loop.submit(places.destroy(place)).result(20)
        assert look(place.relay.pid) is None


def test_a_dead_relay_is_not_handed_out(places: Places, tmp_path: Path, loop: LoopThread) -> None:
    lost = _take(places, tmp_path)
    process = look(lost.relay.pid)
    assert process is not None
    os.kill(lost.relay.pid, signal.SIGKILL)
    wait_until_gone([process])
    wait_until("the link has heard of it", lambda: not lost.fresh)
    places._spare, left = lost, places._spare  # As if it had died while it waited.

    place = places.take(tmp_path)

    assert place is not lost
    assert place.fresh
    for one in filter(None, (place, left)):
        loop.submit(places.destroy(one)).result(20)


def test_code_elsewhere_gets_a_place_that_shows_it(places: Places, tmp_path: Path, loop: LoopThread) -> None:
    spare = wait_until("a place is made in advance", lambda: places._spare)

    place = places.take(Path("/usr"))

    assert place is not spare
    assert place.fresh
    loop.submit(places.destroy(place)).result(20)


def test_what_a_relay_in_a_group_starts_is_born_there(
    places: Places, tmp_path: Path, memory: MemoryGroups, loop: LoopThread
) -> None:
    place = _take(places, tmp_path)
    if place.group is not None:
        assert place.group.joinpath("cgroup.procs").read_text().split() == [str(place.relay.pid)]
        assert places.limit(place, 100) == [str(place.group)]
        assert int(place.group.joinpath("memory.limit_in_bytes").read_text()) == 116 << 20
    elif memory.usable:
        assert len(places.limit(place, 100)) == 1
    else:
        assert places.limit(place, 100) == []
    loop.submit(places.destroy(place)).result(20)
    assert place.group is None or not place.group.exists()


def test_the_spare_ends_with_the_rest(places: Places, tmp_path: Path) -> None:
    wait_until("a place is made in advance", lambda: places._spare)
    assert places._spare is not None
    process = look(places._spare.relay.pid)
    assert process is not None
    assert alive(process)

    places.close()

    wait_until_gone([process])


def _take(places: Places, tmp_path: Path) -> Place:
    """The place made in advance."""
    spare = wait_until("a place is made in advance", lambda: places._spare)
    place = places.take(tmp_path)
    assert place is spare
    return place
