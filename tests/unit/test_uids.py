"""User ids: one environment each, on the whole machine."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from workers.disk.uids import NoIdentity, remove_leftovers, take_identity

UIDS = range(1_999_000_000, 1_999_000_003)

HOLD = """
import sys
from pathlib import Path
from workers.disk.uids import take_identity
identities = [take_identity(range(int(sys.argv[1]), int(sys.argv[2])), Path(sys.argv[3])) for _ in range(2)]
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the locks are: not the machine's own."""
    return tmp_path / "run" / "uids"


def test_nobody_else_gets_an_id_that_is_held(directory: Path) -> None:
    identities = [take_identity(UIDS, directory) for _ in UIDS]
    assert sorted(identity.uid for identity in identities) == list(UIDS)
    with pytest.raises(NoIdentity, match="EVERWARM_LOCAL_UIDS"):
        take_identity(UIDS, directory)
    identities[1].close()
    again = take_identity(UIDS, directory)
    assert again.uid == identities[1].uid
    for identity in (identities[0], identities[2], again):
        identity.close()
    assert not list(directory.iterdir())


def test_ids_of_another_process_are_free_when_it_is_killed(directory: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(UIDS.start), str(UIDS.stop), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"taken\n"
        mine = take_identity(UIDS, directory)
        with pytest.raises(NoIdentity):
            take_identity(UIDS, directory)
        other.kill()
        other.wait()
        others = [take_identity(UIDS, directory), take_identity(UIDS, directory)]
        assert {mine.uid, *(identity.uid for identity in others)} == set(UIDS)
        for identity in (mine, *others):
            identity.close()


def test_an_id_is_never_had_twice(directory: Path) -> None:
    """Threads take and give back as quickly as they can: files are removed while others open them."""
    holders: dict[int, int] = dict.fromkeys(UIDS, 0)
    twice: list[int] = []

    def work() -> None:
        for _ in range(200):
            try:
                identity = take_identity(UIDS, directory)
            except NoIdentity:
                continue
            holders[identity.uid] += 1
            if holders[identity.uid] != 1:
                twice.append(identity.uid)
            holders[identity.uid] -= 1
            identity.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not twice


def test_only_the_worker_may_look_into_the_directory(directory: Path) -> None:
    take_identity(UIDS, directory).close()
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o755)
    with pytest.raises(PermissionError, match="uids"):
        take_identity(UIDS, directory)


def test_what_killed_workers_left_is_removed_and_what_is_held_stays(tmp_path: Path) -> None:
    directory = tmp_path / "uids"
    identity = take_identity(UIDS, directory)
    left = directory / "1999000099"
    left.touch()
    remove_leftovers(directory)
    assert [path.name for path in directory.iterdir()] == [str(identity.uid)]
    identity.close()
    remove_leftovers(tmp_path / "never made")
