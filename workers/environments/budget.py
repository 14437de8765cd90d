"""How many environments a worker has room for: by number, by the memory that their functions may use, and by function.

Pure decisions over what there is; :class:`workers.environments.keeper.EnvironmentKeeper` acts on them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from workers.contract.messages import FunctionSpec


class Occupant(Protocol):
    """What a budget needs to know of an environment."""

    last_use: float

    @property
    def spec(self) -> FunctionSpec:
        """The revision that the environment runs."""


One = TypeVar("One", bound=Occupant)


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of one worker."""

    environments: int
    memory_mb: int
    starts: int
    """How many environments are started at a time; more wait for their turn."""
    of_a_function: int | None = None
    """How many environments one function version may have; ``None``: any number."""

    def never(self, spec: FunctionSpec) -> str:
        """Why a function can't run here at all; empty when it can."""
        if spec.memory_mb > self.memory_mb:
            return (
                f"The function wants {spec.memory_mb} MB, and this worker's environments together may have "
                f"{self.memory_mb} MB (EVERWARM_MEMORY_BUDGET_MB)."
            )
        return ""

    def room_for(self, spec: FunctionSpec, all_: "Iterable[One]", idle: "Sequence[One]") -> "list[One] | None":
        """Which idle environments must go so that one more fits, the least recently used first; ``None``: it does not fit yet."""
        everybody = list(all_)
        number = len(everybody) + 1 - self.environments
        memory_mb = sum(one.spec.memory_mb for one in everybody) + spec.memory_mb - self.memory_mb
        going: list[One] = []
        if self.of_a_function is not None:
            same = sum(is_same_version(one.spec, spec) for one in everybody)
            going = [one for one in idle if is_same_version(one.spec, spec)][: max(same + 1 - self.of_a_function, 0)]
            if same + 1 - self.of_a_function > len(going):
                return None
            number -= len(going)
            memory_mb -= sum(one.spec.memory_mb for one in going)
        for one in sorted(idle, key=lambda one: one.last_use):
            if number <= 0 and memory_mb <= 0:
                break
            if one not in going:
                going.append(one)
                number -= 1
                memory_mb -= one.spec.memory_mb
        return going if number <= 0 and memory_mb <= 0 else None


def is_same_version(one: FunctionSpec, other: FunctionSpec) -> bool:
    """Whether two revisions are of the same function version."""
    return (one.arn, one.version) == (other.arn, other.version)
