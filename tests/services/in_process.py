"""Workers in the test's own process: every part between the queues and the modes, on fake starters and a real Redis."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from tests.services.redis import RedisServer
from tests.services.waiting import wait_until
from workers.contract import keys
from workers.contract.messages import VERSION, Batch, FunctionSpec, Invocation, Outcome, decode_outcome
from workers.environments.budget import Budget
from workers.environments.environment import Environment
from workers.environments.fake_starter import FakeRelay, FakeStarter, Process
from workers.environments.keeper import EnvironmentKeeper, EnvironmentRequest
from workers.environments.leases import MOVE_MS, Leases
from workers.execution.attempts import RunningAttempts
from workers.execution.batch_ownership import BatchOwnership
from workers.execution.claims import Claims
from workers.execution.executor import Executor
from workers.function_logs import Shipper
from workers.intake.mailbox import pop_unread_messages
from workers.intake.requests import MailboxRequests
from workers.link.loop_thread import LoopThread
from workers.redis_client import Store
from workers.settings import WorkerSettings
from workers.upkeep import Upkeep

WAIT_S: Final = 10.0
SLOTS: Final = 4
_numbers = itertools.count()


def spec(function: str = "f", revision: str = "r1", *, timeout_s: int = 5, memory_mb: int = 128) -> FunctionSpec:
    return FunctionSpec(
        account="000000000000", region="us-east-1", function=function, version="$LATEST", runtime="python3.11",
        handler="h", timeout_s=timeout_s, memory_mb=memory_mb, ephemeral_mb=512, environment={}, code_sha256="",
        revision=f"{function}-{revision}",
    )  # fmt: skip


def now_ms(server: RedisServer) -> int:
    """Redis' clock, by which claims are late."""
    seconds, micros = server.client.time()
    return int(seconds) * 1000 + int(micros) // 1000


class Call:
    """One invocation that a worker was given, and what came of it."""

    def __init__(self, server: RedisServer, invocation: Invocation, done: "Future[None]") -> None:
        self.invocation = invocation
        self.done = done
        """The worker's thread has let go of it."""
        self._server = server

    @property
    def answered(self) -> bool:
        return bool(self._server.client.exists(self.invocation.reply_to))

    def outcome(self) -> Outcome:
        found: Any = self._server.client.blpop([self.invocation.reply_to], timeout=WAIT_S)
        assert found is not None, "nobody answered"
        return decode_outcome(found[1])

    def wait(self) -> None:
        """Until the environment is handed back, or gone."""
        self.done.result(WAIT_S)


class InProcessWorker:
    """A worker whose environments are fakes."""

    def __init__(
        self,
        server: RedisServer,
        *,
        process: Process = "kept",
        budget: Budget | None = None,
        hand_back_s: float = 0.05,
        keepalive_ms: int = 600_000,
        move_ms: int = MOVE_MS,
        init_timeout_s: float = 20.0,
        slots: int = SLOTS,
    ) -> None:
        self.name = f"w{next(_numbers)}"
        self.server = server
        self.died: list[BaseException] = []
        self.code_version = 0
        """Of every hot-reload directory."""
        self.settings = WorkerSettings(
            redis_url=server.url, name=self.name, concurrency=slots, keepalive_ms=keepalive_ms
        )
        self.store = Store(server.url)
        self._loop = LoopThread(self.died.append)
        self._loop.start()
        self._shipper = Shipper(self.store, self.died.append)
        self._shipper.start()
        self.starter = FakeStarter(self._loop, self._shipper, process=process, hand_back_s=hand_back_s)
        self.keeper = EnvironmentKeeper(
            Leases(self.store, self.name, "local", move_ms=move_ms),
            lambda lease, on_gone: Environment(lease, self._loop, on_gone),
            self.starter,
            budget=budget or Budget(environments=16, memory_mb=16 * 1024, starts=4),
            keepalive_ms=keepalive_ms,
            code_version=lambda _: self.code_version,
        )
        self.claims = Claims(self.store, self.name)
        self.attempts = RunningAttempts()
        self.ownership = BatchOwnership(self.store, self.name)
        self.executor = Executor(
            self.claims,
            self.keeper,
            self.store,
            self.attempts,
            self.ownership,
            worker=self.name,
            init_timeout_s=init_timeout_s,
            response_limit=self.settings.max_payload_bytes,
        )
        self.requests = MailboxRequests(
            self.store,
            self.starter,
            self.keeper,
            self.executor,
            self.attempts,
            worker=self.name,
            mode="local",
            slots=slots,
        )
        self.upkeep = Upkeep(
            self.settings, self.store, self.keeper, self.claims, self.attempts, self.ownership, self.died.append
        )
        self._threads = ThreadPoolExecutor(slots, self.name)

    # What arrives

    def call(self, payload: bytes = b"1", *, of: FunctionSpec | None = None, wait_ms: int = 10_000) -> Call:
        """Give the worker one invocation, as a task does; ``wait_ms`` is how long it may wait until it is claimed."""
        (call,) = self.call_all(payload, of=of, wait_ms=wait_ms)
        return call

    def call_all(
        self, *payloads: bytes, of: FunctionSpec | None = None, batch: str = "", wait_ms: int = 10_000
    ) -> list[Call]:
        """Give the worker several in one message; with an id of the message they are events."""
        function = of or spec()
        claim_by_ms = now_ms(self.server) + wait_ms
        invocations = [self._invocation(function, payload, claim_by_ms) for payload in payloads]
        message = Batch(v=VERSION, id=batch, spec=function, invocations=invocations)
        done = self._threads.submit(self.executor.run_batch, message)
        return [Call(self.server, invocation, done) for invocation in invocations]

    def _invocation(self, function: FunctionSpec, payload: bytes, claim_by_ms: int) -> Invocation:
        name = f"i{next(_numbers)}"
        return Invocation(
            request_id=name,
            lane="sync",
            invoked_arn=function.arn,
            payload=payload,
            counted_in=keys.concurrency(function.account, function.region),
            claim_by_ms=claim_by_ms,
            reply_to=keys.replies(name),
        )

    def environment_request(self, **members: Any) -> EnvironmentRequest:
        """For tests of the keeper alone."""
        members = {"spec": spec(), "owner": f"i{next(_numbers)}:1", "reserve": lambda _: None, **members}
        return EnvironmentRequest(code_url="", claim_by_ms=now_ms(self.server) + 10_000, **members)

    def read_mailbox(self) -> int:
        """Handle what lies in the mailbox; answers how many messages that were."""
        found = pop_unread_messages(self.store, self.name)
        for kind, body in found:
            self.requests.handlers[kind](body)
        return len(found)

    # What there is

    def warm_up(self, *, of: FunctionSpec | None = None) -> str:
        """Have one idle environment more; answers its id."""
        call = self.call(of=of)
        call.wait()
        outcome = call.outcome()
        assert outcome.kind == "success", outcome
        return outcome.environment

    def relay(self, environment: str) -> FakeRelay:
        return self.starter.relays[environment]

    def only_relay(self) -> FakeRelay:
        (relay,) = wait_until("one environment runs", lambda: list(self.starter.relays.values()))
        return relay

    def wait_for_event(self, count: int = 1) -> FakeRelay:
        """The only environment's relay, once it was handed so many events."""
        relay = self.only_relay()
        wait_until(f"the runtime has {count} events", lambda: len(relay.events) == count)
        return relay

    def record(self, environment: str) -> dict[str, str]:
        """What Redis says of the environment."""
        found: Any = self.server.client.hgetall(keys.environment(environment))
        return {name.decode(): value.decode() for name, value in found.items()}

    def state(self, environment: str) -> str:
        return self.record(environment).get("state", "")

    # How it ends

    def stop_at_once(self) -> None:
        """As when the time to drain is over."""
        self.keeper.interrupt_all()
        self.claims.hurry()

    def close(self) -> None:
        self.upkeep.stop()
        self.requests.close()
        self._threads.shutdown()
        self.keeper.close()
        self.starter.close()
        self._shipper.stop()
        self._loop.stop()
        assert not self.died, self.died
        assert not self.starter.relays, "every environment was destroyed"
        names = {name.decode() for name in self.server.client.scan_iter(keys.environment("*"))}
        assert not names & {keys.environment(name) for name in self.starter.started}, "a record is left"


MakeWorker = Callable[..., InProcessWorker]


@contextmanager
def in_process_workers(server: RedisServer) -> Iterator[MakeWorker]:
    """Makes workers; they are closed at the end, and nothing is left of their environments then."""
    made: list[InProcessWorker] = []

    def make(**options: Any) -> InProcessWorker:
        made.append(InProcessWorker(server, **options))
        return made[-1]

    try:
        yield make
    finally:
        for worker in made:
            worker.stop_at_once()
        for worker in made:
            worker.close()


def see_each_other(*workers: InProcessWorker) -> None:
    """Each has a heartbeat, and knows that it is not alone."""
    for _ in range(2):
        for worker in workers:
            worker.upkeep.beat()
    assert all(worker.keeper.shared for worker in workers)
