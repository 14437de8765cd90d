"""User ids: one environment each, on the whole machine."""

import subprocess
import sys

import pytest

from workers.identities import NoIdentity, take

UIDS = range(1_999_000_000, 1_999_000_003)

HOLD = """
import sys
from workers.identities import take
held = [take(range(int(sys.argv[1]), int(sys.argv[2]))) for _ in range(2)]
print("held", flush=True)
sys.stdin.read()
"""


def test_nobody_else_gets_an_id_that_is_held() -> None:
    held = [take(UIDS) for _ in UIDS]
    assert sorted(identity.uid for identity in held) == list(UIDS)
    with pytest.raises(NoIdentity, match="EVERWARM_LOCAL_UIDS"):
        take(UIDS)
    held[1].close()
    again = take(UIDS)
    assert again.uid == held[1].uid
    for identity in (held[0], held[2], again):
        identity.close()


def test_ids_of_another_process_are_free_when_it_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(UIDS.start), str(UIDS.stop)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        mine = take(UIDS)
        with pytest.raises(NoIdentity):
            take(UIDS)
        other.kill()
        other.wait()
        others = [take(UIDS), take(UIDS)]
        assert {mine.uid, *(identity.uid for identity in others)} == set(UIDS)
        for identity in (mine, *others):
            identity.close()
