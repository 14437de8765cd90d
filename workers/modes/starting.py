"""The starter of the mode that a worker serves; chosen once, when it starts."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from workers.capacity import Budget
from workers.containers import Engine
from workers.environment import Environment
from workers.environments import Starter
from workers.journal import Shipper
from workers.link import ApiRequest
from workers.loop import LoopThread
from workers.modes.boxes import Boxes
from workers.modes.docker import DockerStarter
from workers.modes.docker_exec import ExecStarter
from workers.modes.local import LocalStarter
from workers.modes.run_directory import RunDirectory, place
from workers.settings import WorkerSettings
from workers.store import Store

log = logging.getLogger(__name__)

OnApi = Callable[[Environment, ApiRequest], None]
OnFailure = Callable[[BaseException], None]


class Closing(Starter, Protocol):
    """A starter as the worker owns it."""

    def ready(self, knows: Callable[[str], bool]) -> None:
        """The worker serves: begin what goes on in the background. ``knows`` tells which environments there are, by id."""

    def close(self) -> None:
        """Remove what is left; every environment was destroyed before."""


def create(
    settings: WorkerSettings, loop: LoopThread, store: Store, shipper: Shipper, on_api: OnApi, on_failure: OnFailure
) -> tuple[Closing, Path]:
    """The starter, and the worker's own directory, which is gone with it. Raises ``EngineUnavailable`` in the docker modes."""
    if settings.mode == "local":
        local = LocalStarter(settings, loop, shipper, on_api)
        return local, local.directory
    engine = Engine.connect(settings.docker_host or None)
    run = RunDirectory(place(settings.data_dir), lambda _: None)
    boxes = Boxes(settings, loop, store, engine, run, on_failure)
    if settings.mode == "docker-reuse" and not settings.stay_open:
        return ExecStarter(settings, loop, shipper, on_api, boxes), run.path
    return DockerStarter(settings, loop, shipper, on_api, boxes), run.path


def budget(settings: WorkerSettings) -> Budget:
    """What the worker's environments may take together."""
    fixed = settings.mode != "local" and settings.docker_flags.fixed_port
    if fixed:
        log.warning(
            "LAMBDA_DOCKER_FLAGS publishes a fixed port, which one container can have at a time: "
            "each function gets one environment"
        )
    return Budget(settings.max_environments, settings.memory_budget_mb, settings.max_starts, 1 if fixed else None)
