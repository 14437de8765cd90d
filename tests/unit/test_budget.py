"""What must go so that one more environment fits: pure decisions."""

from dataclasses import dataclass

from workers.contract.messages import FunctionSpec
from workers.environments.budget import Budget


def spec(function: str = "f", memory_mb: int = 128, version: str = "$LATEST") -> FunctionSpec:
    return FunctionSpec(
        account="1", region="r", function=function, version=version, runtime="", handler="", timeout_s=1,
        memory_mb=memory_mb, ephemeral_mb=512, environment={}, code_sha256="", revision="",
    )  # fmt: skip


@dataclass
class One:
    spec: FunctionSpec
    last_use: float


def one(last_use: float, function: str = "f", memory_mb: int = 128) -> One:
    return One(spec(function, memory_mb), last_use)


def test_nothing_goes_while_there_is_room() -> None:
    assert Budget(2, 256, 1).room_for(spec(), [one(1)], []) == []


def test_the_least_recently_used_idle_one_goes() -> None:
    old, new, busy = one(1), one(2), one(0)
    assert Budget(3, 10_000, 1).room_for(spec(), [new, old, busy], [new, old]) == [old]


def test_memory_counts_as_numbers_do() -> None:
    small, large, busy = one(1), one(2, memory_mb=512), one(0)
    assert Budget(10, 1024, 1).room_for(spec(memory_mb=512), [small, large, busy], [small, large]) == [small, large]
    assert Budget(10, 1024, 1).room_for(spec(memory_mb=256), [small, large, busy], [small, large]) == []


def test_there_is_none_while_all_run() -> None:
    assert Budget(1, 10_000, 1).room_for(spec(), [one(1)], []) is None
    assert Budget(5, 128, 1).room_for(spec(), [one(1)], []) is None


def test_one_of_a_function() -> None:
    budget = Budget(10, 10_000, 1, of_a_function=1)
    busy, idle, other = one(1), one(2), one(0, "other")
    assert budget.room_for(spec(), [busy, other], [other]) is None
    assert budget.room_for(spec(), [idle, other], [idle, other]) == [idle]
    assert budget.room_for(spec("third"), [busy, other], []) == []


def test_what_never_fits_says_so() -> None:
    assert "wants 256 MB" in Budget(1, 128, 1).never(spec(memory_mb=256))
    assert Budget(1, 128, 1).never(spec()) == ""
