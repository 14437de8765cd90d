"""The attempts that this worker runs now: what it tells Redis again when Redis was lost, and what can be cancelled."""

import threading
import time
from collections.abc import Callable

from workers.contract.messages import FunctionSpec, Invocation
from workers.execution.claims import AFTERLIFE_MS, Claims


class RunningAttempts:
    """The claimed attempts whose outcome was not delivered yet, by request id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: dict[str, tuple[FunctionSpec, Invocation, str, float]] = {}

    def add(self, spec: FunctionSpec, invocation: Invocation, environment: str) -> None:
        """The invocation's attempt was claimed, to run on the environment of this id."""
        with self._lock:
            end = time.monotonic() + spec.timeout_s
            self._attempts[invocation.request_id] = (spec, invocation, environment, end)

    def remove(self, invocation: Invocation) -> None:
        """The attempt's outcome was delivered."""
        with self._lock:
            self._attempts.pop(invocation.request_id, None)

    def __len__(self) -> int:
        return len(self._attempts)

    def while_running(self, request_id: str, attempt: int, act: Callable[[str], None]) -> bool:
        """Call ``act`` with the attempt's environment if it runs here; its outcome is not out before that returns."""
        with self._lock:
            found = self._attempts.get(request_id)
            if found is None or found[1].attempt != attempt:
                return False
            act(found[2])
            return True

    def rejoin(self, claims: Claims) -> None:
        """Record all of them in Redis again."""
        with self._lock:
            attempts = list(self._attempts.values())
        for spec, invocation, environment, end in attempts:
            left_ms = max(int((end - time.monotonic()) * 1000), 0) + AFTERLIFE_MS
            claims.rejoin(spec, invocation, environment, left_ms)
