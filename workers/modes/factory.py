"""The starter of the mode that a worker serves; chosen once, when it starts."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from workers.disk.run_directory import RunDirectory, place
from workers.engine import Engine
from workers.environments.budget import Budget
from workers.environments.environment import Environment
from workers.environments.starter import Starter
from workers.function_logs import Shipper
from workers.link.answers import ApiRequest
from workers.link.loop_thread import LoopThread
from workers.modes.docker.exec_starter import ExecStarter
from workers.modes.docker.relays import ContainerRelays
from workers.modes.docker.sandboxes import ContainerSandboxes
from workers.modes.docker.starter import DockerStarter
from workers.modes.local.starter import LocalStarter
from workers.redis_client import Store
from workers.settings import WorkerSettings

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
    """Answers the starter, and the worker's own directory, which the starter removes as it closes. Raises ``EngineUnavailable`` in the docker modes."""
    if settings.mode == "local":
        local = LocalStarter(settings, loop, shipper, on_api)
        return local, local.directory
    engine = Engine.connect(settings.docker_host or None)
    run = RunDirectory(place(settings.data_dir), lambda _: None)
    sandboxes = ContainerSandboxes(settings, loop, store, engine, run, on_failure)
    relays = ContainerRelays(settings, loop, shipper, on_api)
    if settings.mode == "docker-reuse" and not settings.stay_open:
        return ExecStarter(settings, loop, relays, sandboxes), run.path
    return DockerStarter(settings, loop, relays, sandboxes), run.path


def budget(settings: WorkerSettings) -> Budget:
    """What the worker's environments may take together."""
    fixed = settings.mode != "local" and settings.docker_flags.fixed_port
    if fixed:
        log.warning(
            "LAMBDA_DOCKER_FLAGS publishes a fixed port, which one container can have at a time: "
            "each function gets one environment"
        )
    return Budget(settings.max_environments, settings.memory_budget_mb, settings.max_starts, 1 if fixed else None)
