"""The seam between the keeper of environments and the modes: what a mode offers, and how it says that it can't.

A mode is not on the path of a warm invocation. Its :class:`Starter` makes environments and clears them away, and is
asked at two moments in between::

    start ──► runs ──after_invocation──► idle ──activate──► runs ──after_invocation──► …
      └─────────┴───────────────────────── destroy ───────────┘

``workers.environments.fake_starter`` has one without processes, for tests.
"""

from collections.abc import Callable
from typing import Final, Protocol

from workers.contract.messages import FunctionSpec
from workers.environments.environment import Environment


class Starter(Protocol):
    """What a mode adds: how its environments come to be, and what is to be cleared away after them."""

    single_use: bool
    """Each invocation gets a process of its own."""
    hand_back_s: float
    """How many seconds an environment takes from its answer to being idle, as a rule; less than a start takes."""

    def prepare(self, spec: FunctionSpec, code_url: str) -> str:
        """Have ready what a start would wait for; answers the id of the function's image, if any. Raises :class:`StartError`."""

    def start(self, environment: Environment, code_url: str) -> None:
        """Make the process or container, attach its relay to the environment and send START; do not wait for the runtime.

        Raises :class:`StartError`; whatever is raised, nothing is left behind then.
        """

    def activate(self, environment: Environment) -> Callable[[], bool]:
        """An idle environment was chosen: see that it can take an event.

        What is returned waits for that, and is false when the environment is dead.
        """

    def after_invocation(self, environment: Environment, left_s: float) -> bool:
        """The environment's last answer is out: whether it became idle within ``left_s`` seconds, and may be used again."""

    def destroy(self, environment: Environment) -> None:
        """End the environment and clear everything away; harmless when that was done."""


class StartError(Exception):
    """The environment could not be made. ``code`` is AWS's exception for it; the text is for the caller.

    ``state_code`` is AWS's StateReasonCode, when that comes out as a function is made ready.
    """

    def __init__(self, message: str, code: str = "ServiceException", state_code: str = "InternalError") -> None:
        super().__init__(message)
        self.code: Final = code
        self.state_code: Final = state_code


class Stopping(StartError):
    """The worker stops, and starts nothing any more."""


class FunctionFault(StartError):
    """The function's own code can't be started: an outcome, with this ``errorType``."""

    def __init__(self, message: str, error_type: str) -> None:
        super().__init__(message)
        self.error_type: Final = error_type
