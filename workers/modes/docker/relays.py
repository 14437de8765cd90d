"""Relays in containers: each is attached to the environment that it serves, with a buffer for its logs."""

from collections.abc import Callable

from workers.environments.environment import Environment
from workers.function_logs import LogBuffer, Shipper
from workers.link.answers import ApiRequest, End
from workers.link.container_relay import ContainerRelay
from workers.link.loop_thread import LoopThread
from workers.settings import WorkerSettings


class ContainerRelays:
    """Makes the relays of one worker's containers."""

    def __init__(
        self,
        settings: WorkerSettings,
        loop: LoopThread,
        shipper: Shipper,
        on_api: Callable[[Environment, ApiRequest], None],
    ) -> None:
        """``on_api`` gets the requests of functions to the Lambda API, on the links' thread."""
        self._shown_characters = settings.truncate_stdout
        self._loop = loop
        self._shipper = shipper
        self._on_api = on_api

    def attach_new(self, environment: Environment, on_exit: Callable[[End], None]) -> ContainerRelay:
        """A new relay, on which the environment runs from here on; it still has to be connected, and sent START."""
        relay = ContainerRelay(
            on_log=environment.on_log,
            on_idle=environment.on_idle,
            on_exit=on_exit,
            on_api=lambda request: self._on_api(environment, request),
        )
        environment.attach(relay, LogBuffer(self._shipper, environment.spec, relay, self._loop, self._shown_characters))
        return relay
