"""From a batch to outcomes: claim each invocation, run it on a leased environment, deliver how it ended.

How the invocations arrived is not the executor's business (:mod:`workers.intake`), nor how environments come to be (the
modes).
"""

import logging
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from workers.contract.messages import Batch, FunctionSpec, Invocation, Outcome, encode
from workers.environments.environment import Environment, EnvironmentBroken, Interrupted, deadline_ms
from workers.environments.keeper import EnvironmentKeeper, EnvironmentRequest, Moved, NoRoom
from workers.environments.starter import FunctionFault, StartError, Stopping
from workers.execution.attempts import RunningAttempts
from workers.execution.batch_ownership import BatchOwnership
from workers.execution.claims import Claims, member
from workers.execution.outcomes import Ending, end_lines, ending, failure, start_line, used_mb
from workers.link.answers import Answer, Event, Exited, InitFailed, NotIdle, Started, TimedOut
from workers.redis_client import Store, Unavailable

#: AWS gives initialisation this long; on overrun it runs again inside the first invocation, under the function's timeout.
INIT_S: Final = 10.0
_REDIS_PAUSE_S: Final = 0.1
#: How long to wait for a runtime to ask for its next event, so that outcome and next claim share one round trip.
_QUICK_S: Final = 0.005

log = logging.getLogger(__name__)


class NotOurs(Exception):
    """The claim was refused: somebody else has the invocation, or nobody waits for it any more."""


class Executor:
    """Runs batches, each in the calling thread."""

    def __init__(
        self,
        claims: Claims,
        environments: EnvironmentKeeper,
        store: Store,
        attempts: RunningAttempts,
        ownership: BatchOwnership,
        *,
        worker: str,
        init_timeout_s: float,
        response_limit: int,
    ) -> None:
        self._claims = claims
        self._environments = environments
        self._store = store
        self._attempts = attempts
        self._ownership = ownership
        self._worker = worker
        self._init_s = min(INIT_S, init_timeout_s)
        self._response_limit = response_limit

    def run_batch(self, batch: Batch) -> None:
        """Run the invocations in series, on one environment as long as it lasts; here, or where one is idle."""
        self._run_work(_Work(batch, deque(batch.invocations), movable=True))

    def run_moved_batch(self, batch: Batch, environment: Environment | None) -> None:
        """Run what another worker sent here, on the environment that it leased for it, if that can still be used."""
        self._run_work(_Work(batch, deque(batch.invocations), given=environment))

    def _run_work(self, work: "_Work") -> None:
        self._ownership.acquire(work.batch.id)
        try:
            self._run_all(work)
        finally:
            self._ownership.release(work.batch.id)

    def _run_all(self, work: "_Work") -> None:
        while work.pending:
            first = work.pending[0]
            try:
                self._lease_and_run(work, first)
            except Unavailable as error:
                # What was not claimed may be repeated, by us while there is time, or by who published it.
                if time.time() * 1000 < first.claim_by_ms:
                    time.sleep(_REDIS_PAUSE_S)
                elif work.claimed == first.request_id:
                    self._refuse(work, "ServiceException", "Redis is gone")
                else:
                    log.warning("batch dropped: Redis is gone", extra={"error": str(error)})
                    return

    def _lease_and_run(self, work: "_Work", first: Invocation) -> None:
        try:
            with self._environments.lease(self._environment_request(work, first)) as environment:
                self._run_on(environment, work)
        except NotOurs:
            work.pending.popleft()
        except Moved as error:
            self._ownership.transfer(work.batch.id, error.worker)
            work.pending.clear()
        except NoRoom:
            # Whoever published them sends them again; but what is claimed here is nobody else's to answer.
            if work.claimed == first.request_id:
                self._refuse(work, "ServiceException", "The worker has no room for another environment.")
            work.pending.clear()
        except _InitOverrun:
            work.overran = True
        except (Stopping, Interrupted) as error:
            self._give_back(work, error)
        except FunctionFault as error:
            self._answer_fault(work, error)
        except StartError as error:
            self._refuse(work, error.code, str(error))
        except EnvironmentBroken as error:
            self._refuse(work, "ServiceException", str(error))
        except Unavailable:
            raise
        except Exception:
            # An error of ours, or of this machine: the caller gets an answer, and the log the reason.
            log.exception("an invocation failed", extra={"request_id": first.request_id})
            self._refuse(work, "ServiceException", "An internal error occurred.")

    def _environment_request(self, work: "_Work", first: Invocation) -> EnvironmentRequest:
        given, work.given = work.given, None
        # What is claimed here stays here.
        movable = work.movable and work.claimed != first.request_id
        return EnvironmentRequest(
            spec=work.batch.spec,
            owner=member(first),
            code_url=work.batch.code_url,
            claim_by_ms=first.claim_by_ms,
            reserve=partial(self._reserve, work, first),
            message=partial(_move_message, work) if movable else None,
            leased=given,
        )

    def _reserve(self, work: "_Work", invocation: Invocation, environment: str) -> None:
        # The invocation is claimed already when the first environment did not take the event.
        if work.claimed != invocation.request_id and self._claims.reserve(invocation, environment) != "reserved":
            raise NotOurs

    def _give_back(self, work: "_Work", error: Exception) -> None:
        """Give events back to the ledger as they are, claimed or not, because the worker stops; calls get an error."""
        if not work.batch.id:
            self._refuse(work, "ServiceException", str(error))
        while work.batch.id and work.pending:
            self._deliver(work, self._unfinished_outcome(work.batch.spec, work.pending[0], "interrupted"))

    def _unfinished_outcome(
        self, spec: FunctionSpec, invocation: Invocation, kind: Literal["interrupted", "throttled"]
    ) -> Outcome:
        return Outcome(
            request_id=invocation.request_id,
            attempt=invocation.attempt,
            kind=kind,
            version=spec.version,
            worker=self._worker,
            ended_ms=_now_ms(),
        )

    def _refuse(self, work: "_Work", code: str, message: str) -> None:
        """Answer the first invocation, which the platform can't run; claimed before, so that exactly one answer is given."""
        if not work.pending:
            return  # Every invocation has its answer.
        invocation = work.pending[0]
        if self._claim(work, invocation, ""):
            self._deliver(work, _system_error(work.batch.spec, invocation, self._worker, code, message))
        else:
            work.pending.popleft()

    def _answer_fault(self, work: "_Work", error: FunctionFault) -> None:
        """Answer the first invocation with the reason why the function's own code can't be started."""
        invocation = work.pending[0]
        if not self._claim(work, invocation, ""):
            work.pending.popleft()
            return
        found = failure(error.error_type, f"RequestId: {invocation.request_id} Error: {error}")
        spec = work.batch.spec
        tail = (
            start_line(invocation.request_id, spec.version)
            + found.log_lines
            + end_lines(invocation.request_id, 0.0, spec.memory_mb, 1, 0.0)
        )
        outcome = Outcome(
            request_id=invocation.request_id,
            attempt=invocation.attempt,
            kind="function_error",
            payload=found.body,
            error_type=found.error_type,
            log_tail=tail.encode(),
            version=spec.version,
            worker=self._worker,
            ended_ms=_now_ms(),
        )
        self._deliver(work, outcome)

    def _run_on(self, environment: Environment, work: "_Work") -> None:
        """Run invocations on a leased environment until none is left or it is spent."""
        if not environment.started and not self._initialise(environment, work):
            return
        while work.pending and environment.usable:
            invocation = work.pending[0]
            if not self._claim(work, invocation, environment.id):
                work.pending.popleft()
                continue
            try:
                outcome = self._run_attempt(environment, work, invocation)
            except NotIdle:
                return  # The event was not sent: another environment takes it.
            if len(work.pending) == 1:
                self._environments.mark_answered(environment)
            elif not self._environments.single_use and environment.idles_within(_QUICK_S):
                self._deliver_and_claim(work, outcome, environment.id)
                continue
            self._deliver(work, outcome)
            if work.pending and self._environments.single_use:
                return
            if work.pending:
                environment.wait_idle(max(environment.give_back_by - time.monotonic(), 0.0))

    def _claim(self, work: "_Work", invocation: Invocation, environment: str) -> bool:
        if work.claimed == invocation.request_id:
            return True
        return self._claimed(work, invocation, environment, self._claims.run(work.batch.spec, invocation, environment))

    def _claimed(self, work: "_Work", invocation: Invocation, environment: str, word: str) -> bool:
        if word == "throttled":
            self._claims.finish(
                work.batch.spec, invocation, self._unfinished_outcome(work.batch.spec, invocation, "throttled")
            )
        if word != "run":
            return False
        work.claimed = invocation.request_id
        self._attempts.add(work.batch.spec, invocation, environment)
        return True

    def _deliver(self, work: "_Work", outcome: Outcome) -> None:
        invocation = work.pending.popleft()
        work.overran = False
        self._claims.finish(work.batch.spec, invocation, outcome)
        self._attempts.remove(invocation)

    def _deliver_and_claim(self, work: "_Work", outcome: Outcome, environment: str) -> None:
        """Deliver one outcome and claim the next invocation for the same environment, in one round trip instead of two."""
        ended = work.pending.popleft()
        following = work.pending[0]
        work.overran = False
        word = self._claims.finish_and_run(work.batch.spec, ended, outcome, following, environment)
        self._attempts.remove(ended)
        if not self._claimed(work, following, environment, word):
            work.pending.popleft()

    def _initialise(self, environment: Environment, work: "_Work") -> bool:
        """Wait until the runtime asks for an event: whether it does. If not, the first invocation is over.

        Raises :class:`_InitOverrun` when that takes longer than AWS gives it, the first time.
        """
        spec, invocation = work.batch.spec, work.pending[0]
        if work.overran and not self._claim(work, invocation, environment.id):
            work.pending.popleft()
            return False
        began = time.monotonic()
        answer = environment.wait_started(spec.timeout_s if work.overran else self._init_s)
        if isinstance(answer, Started):
            work.spent_s = time.monotonic() - began if work.overran else 0.0
            self._environments.mark_started(environment)
            return True
        if answer is None and not work.overran:
            raise _InitOverrun
        if not self._claim(work, invocation, environment.id):
            work.pending.popleft()
            return False
        failed = TimedOut(spec.timeout_s, environment.memory_kb) if answer is None else answer
        environment.log_buffer.begin_invocation(start_line(invocation.request_id, spec.version))
        self._deliver(work, self._outcome(environment, invocation, failed, (time.monotonic() - began) * 1000))
        return False

    def _run_attempt(self, environment: Environment, work: "_Work", invocation: Invocation) -> Outcome:
        """Hand the event to the runtime, and wait for the end."""
        spec = work.batch.spec
        timeout_s = max(spec.timeout_s - work.spent_s, 0.001)
        try:
            payload = self._payload(invocation)
        except LookupError as error:
            return _system_error(spec, invocation, self._worker, "ServiceException", str(error))
        environment.log_buffer.begin_invocation(start_line(invocation.request_id, spec.version))
        began = time.perf_counter()
        event = Event(
            request_id=invocation.request_id,
            deadline_ms=deadline_ms(timeout_s),
            invoked_arn=invocation.invoked_arn,
            trace_id=invocation.trace_id,
            client_context=invocation.client_context,
            cognito_identity=invocation.cognito_identity,
            payload=payload,
        )
        try:
            answer = environment.invoke(event, timeout_s)
        except Interrupted:
            raise
        except EnvironmentBroken as error:
            return _system_error(spec, invocation, self._worker, "ServiceException", str(error))
        duration_ms = (time.perf_counter() - began + work.spent_s) * 1000
        work.spent_s = 0.0
        return self._outcome(environment, invocation, answer, duration_ms)

    def _payload(self, invocation: Invocation) -> bytes:
        if not invocation.payload_key:
            return invocation.payload
        try:
            payload = self._store.client.get(invocation.payload_key)
        except Unavailable as error:
            raise LookupError("the payload can't be read: Redis is gone") from error
        if not isinstance(payload, bytes):
            raise LookupError("the payload is gone: Redis was lost")
        return payload

    def _outcome(
        self,
        environment: Environment,
        invocation: Invocation,
        answer: Answer | InitFailed | TimedOut,
        duration_ms: float,
    ) -> Outcome:
        spec = environment.spec
        found: Ending = ending(answer, invocation.request_id, self._response_limit, spec.ephemeral_mb)
        timed_out = isinstance(answer, TimedOut)
        if timed_out:
            duration_ms = spec.timeout_s * 1000.0
        # The kernel counts to the limit; what was sampled before is less.
        used = spec.memory_mb if isinstance(answer, Exited) and answer.oom else used_mb(answer.memory_kb)
        init_ms, environment.init_ms = environment.init_ms, 0.0
        lines = end_lines(invocation.request_id, duration_ms, spec.memory_mb, used, init_ms, timed_out=timed_out)
        return Outcome(
            request_id=invocation.request_id,
            attempt=invocation.attempt,
            kind="success" if found.success else "function_error",
            payload=found.body,
            error_type=found.error_type,
            log_tail=environment.log_buffer.end_invocation(found.log_lines + lines),
            version=spec.version,
            worker=self._worker,
            environment=environment.id,
            duration_ms=duration_ms,
            init_ms=init_ms,
            memory_used_mb=used,
            ended_ms=_now_ms(),
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class _Work:
    """A batch, and how far it was run."""

    batch: Batch
    pending: deque[Invocation]
    movable: bool = False
    """Whether another worker may run the batch."""
    given: Environment | None = None
    """The environment of this worker that another worker has leased for the batch."""
    claimed: str = ""
    """Request id of the first pending one, once it is claimed."""
    overran: bool = False
    """Initialisation took too long once: now it counts against the function's timeout."""
    spent_s: float = 0.0
    """What that second initialisation took of the first invocation's time."""


def _move_message(work: _Work) -> bytes:
    batch = work.batch
    return encode(
        Batch(v=batch.v, id=batch.id, spec=batch.spec, code_url=batch.code_url, invocations=list(work.pending))
    )


class _InitOverrun(Exception):
    """Initialisation took longer than AWS gives it."""


def _system_error(spec: FunctionSpec, invocation: Invocation, worker: str, code: str, message: str) -> Outcome:
    return Outcome(
        request_id=invocation.request_id,
        attempt=invocation.attempt,
        kind="system_error",
        error_type=code,
        message=message,
        version=spec.version,
        worker=worker,
        ended_ms=_now_ms(),
    )
