"""Whose containers are nobody's."""

from workers.engine import LABEL_ENVIRONMENT, LABEL_WORKER, Container
from workers.modes.docker.reaper import leftovers


def container(worker: str, environment: str) -> Container:
    return Container(f"{worker}-{environment}", "", "running", {LABEL_WORKER: worker, LABEL_ENVIRONMENT: environment})


def names(*found: Container, silent: dict[str, float] | None = None, epoch_s: float = 100.0) -> list[str]:
    left = leftovers(found, "me", lambda name: name == "known", silent or {}, epoch_s)
    return [one.id for one in left]


def test_own_containers_that_are_not_known() -> None:
    assert names(container("me", "known"), container("me", "lost"), container("me", "")) == ["me-lost"]


def test_an_own_network_holder_that_was_never_started() -> None:
    holder = Container("holder", "", "created", {LABEL_WORKER: "me", LABEL_ENVIRONMENT: ""})
    assert names(holder, container("me", "")) == ["holder"]


def test_those_of_the_dead() -> None:
    found = [container("dead", "x"), container("dead", ""), container("alive", "x"), container("quiet", "x")]
    silent = {"dead": 31.0, "alive": 0.5, "quiet": 29.0}
    assert names(*found, silent=silent) == ["dead-x", "dead-"]


def test_who_is_not_listed_is_dead_after_a_whole_epoch_only() -> None:
    assert names(container("gone", "x"), epoch_s=29.0) == []
    assert names(container("gone", "x"), epoch_s=31.0) == ["gone-x"]


def test_after_a_loss_of_redis_nobody_is_dead_at_once() -> None:
    assert names(container("dead", "x"), silent={"dead": 50.0}, epoch_s=1.0) == []
