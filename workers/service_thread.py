"""A service of the worker: one step, again and again, in a thread of its own."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class ServiceThread:
    """Runs a step until it is stopped, with a pause before each run.

    A step waits out by itself what it can wait out. When one raises, the service is dead and ``on_failure`` is told,
    which ends the process loudly: a worker that lacks one of its services must not look as if it worked.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], object],
        pause_s: Callable[[], float],
        on_failure: Callable[[BaseException], None],
        *,
        reports: tuple[type[BaseException], ...] = (),
    ) -> None:
        """``name`` is the thread's; ``pause_s`` is asked before each run for how many seconds to wait.

        ``reports`` are errors whose message says all that there is to say: of others the log gets the traceback.
        """
        self._name = name
        self._step = step
        self._pause_s = pause_s
        self._on_failure = on_failure
        self._reports = reports
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def stopped(self) -> bool:
        """Whether no further run will begin; one may still be under way."""
        return self._stopped.is_set()

    def start(self) -> None:
        """Start the thread, once."""
        self._thread.start()

    def stop(self, wait_s: float = 0.0) -> None:
        """Begin no further run, and wait up to ``wait_s`` seconds for the present one. Harmless before :meth:`start`."""
        self._stopped.set()
        if wait_s and self._thread.is_alive():
            self._thread.join(wait_s)

    def _run(self) -> None:
        try:
            while not self._stopped.wait(self._pause_s()):
                self.run_once()
        except BaseException as error:
            if not isinstance(error, self._reports):
                log.exception("service %s died", self._name)
            self._on_failure(error)

    def run_once(self) -> None:
        """One run of the step, in the calling thread."""
        self._step()
