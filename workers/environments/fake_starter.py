"""A starter without processes, for tests of what stands above the seam: its relays are scripts in this process.

A :class:`FakeRelay` is the other end of a real link and speaks real frames, so that environments, their link and their
races are those of a worker; only what would be a process, or a container, is missing. Each of three things happens to a
relay, and a :class:`Script` has its reaction to each:

* START: by default the runtime asks for its first event;
* an event: by default the runtime answers with its payload and asks for the next event;
* KILL: by default the process tree ends.

A reaction is a sequence of :data:`Step`. A test may also take steps itself, at any time, by :meth:`FakeRelay.take_step`.
"""

import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from workers.contract.messages import FunctionSpec
from workers.environments.environment import Environment
from workers.function_logs import LogBuffer, Shipper
from workers.link import frames
from workers.link.answers import ApiRequest, End, FunctionIdentity, Start
from workers.link.frames import Buffer, Decoder
from workers.link.loop_thread import LoopThread
from workers.link.relay_link import Link

Step = Literal["ask", "answer", "fail", "die", "break"] | float | bytes
"""``ask``: the runtime asks for an event. ``answer``: it answers the event with the event's payload; ``fail``: with an error
(of the initialisation, before its first ``ask``). ``die``: the process tree ends by SIGKILL. ``break``: the relay ends
without a word. A number: the next step follows after so many seconds. Bytes: the function writes them to its log."""

Process = Literal["kept", "single use", "per invocation"]
"""``kept``: a process takes any number of invocations (modes local and docker-reuse). ``single use``: the environment ends
with its invocation (mode docker). ``per invocation``: each gets a new process in the same environment (docker-exec)."""

_MEMORY_KB: Final = 1024
_PID: Final = 2  # of no process that is anybody's


@dataclass(frozen=True, slots=True)
class Script:
    """How a fake relay reacts."""

    start: tuple[Step, ...] = ("ask",)
    event: tuple[Step, ...] = ("answer", "ask")
    kill: tuple[Step, ...] = ("die",)


class FakeRelay:
    """A relay that follows a script; see :class:`workers.environments.environment.Relay`."""

    def __init__(
        self,
        loop: LoopThread,
        script: Script,
        *,
        on_log: Callable[[bytes], None],
        on_idle: Callable[[], None],
        on_exit: Callable[[End], None],
        on_api: Callable[[ApiRequest], None] | None = None,
    ) -> None:
        self.link = Link(self._write, on_log=on_log, on_idle=on_idle, on_exit=on_exit, on_api=on_api)
        self.script = script
        """Read as each thing happens, so that a test may replace it meanwhile."""
        self.events: Final[list[tuple[str, bytes]]] = []
        """Request id and payload of every event, once it is whole."""
        self.reading = True
        """The worker takes what the relay writes."""
        self._loop = loop
        self._decoder = Decoder()
        self._event: tuple[str, int] = ("", 0)
        """Request id and length of the event that is coming."""
        self._payload = bytearray()
        self._has_asked = False

    def take_step(self, step: Step) -> None:
        """Take one more step soon, from any thread; dropped when the relay has ended by then."""
        self._loop.call(self._react, (step,))

    # What an environment needs

    def pause_reading(self) -> None:
        """Take nothing more from the relay; what it says all the same arrives, as what is under way would."""
        self.reading = False

    def resume_reading(self) -> None:
        """Undo :meth:`pause_reading`."""
        self.reading = True

    async def close(self, patience_s: float = 0.0) -> bool:  # noqa: ARG002 - as every relay's
        """End the relay and its tree, at once."""
        self.link.closed()
        return True

    # What the worker writes

    def _write(self, buffers: list[Buffer]) -> None:
        for buffer in buffers:
            for kind, _, payload in self._decoder.feed(bytes(buffer)):
                self._loop.call(self._take, kind, payload)

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == frames.START:
            self._say(frames.STARTED, {"pid": _PID, "runtime_api": "", "private_tmp": ""})
            self._react(self.script.start)
        elif kind == frames.EVENT:
            head: dict[str, Any] = msgspec.json.decode(payload)
            self._event = head["request_id"], head["length"]
            self._payload.clear()
            self._take_payload(b"")
        elif kind == frames.DATA:
            self._send(frames.CREDIT, len(payload).to_bytes(4))
            self._take_payload(payload)
        elif kind == frames.KILL:
            self._react(self.script.kill)
        elif kind == frames.PING:
            self._send(frames.PONG)

    def _take_payload(self, part: bytes) -> None:
        self._payload += part
        request_id, length = self._event
        if len(self._payload) == length:
            self.events.append((request_id, bytes(self._payload)))
            self._react(self.script.event)

    # What the relay says

    def _react(self, steps: tuple[Step, ...]) -> None:
        for at, step in enumerate(steps):
            if self.link.state == "ended":
                return
            if isinstance(step, bytes):
                self._send(frames.LOG, step)
            elif isinstance(step, (int, float)):
                self._loop.loop.call_later(step, self._react, steps[at + 1 :])
                return
            else:
                _steps[step](self)

    def _ask(self) -> None:
        self._has_asked = True
        self._say(frames.NEXT, {"memory_kb": _MEMORY_KB, "init_ms": 1.0})

    def _answer(self) -> None:
        request_id, payload = self.events[-1]
        self._say(frames.RESPONSE, {"request_id": request_id, "content_type": "application/json"})
        for start in range(0, len(payload), frames.MAX_PAYLOAD):
            self._send(frames.DATA, payload[start : start + frames.MAX_PAYLOAD])
        self._say(frames.END, {"memory_kb": _MEMORY_KB})

    def _fail(self) -> None:
        head = {"request_id": self.events[-1][0] if self.events else "", "content_type": "", "error_type": "Fake.Error"}
        self._say(frames.ERROR if self._has_asked else frames.INIT_ERROR, head)
        self._send(frames.DATA, b'{"errorType":"Fake.Error","errorMessage":"as the script says"}')
        self._say(frames.END, {"memory_kb": _MEMORY_KB})

    def _die(self) -> None:
        end = {"code": None, "signal": signal.SIGKILL, "oom": False, "memory_kb": _MEMORY_KB, "error": ""}
        self._say(frames.EXIT, {**end, "init_over": self._has_asked})

    def _break(self) -> None:
        self.link.closed()

    def _say(self, kind: int, payload: Mapping[str, object]) -> None:
        self._send(kind, msgspec.json.encode(payload))

    def _send(self, kind: int, payload: bytes = b"") -> None:
        self.link.feed(frames.encode(kind, payload))


_steps: Final[Mapping[str, Callable[[FakeRelay], None]]] = {
    "ask": FakeRelay._ask,
    "answer": FakeRelay._answer,
    "fail": FakeRelay._fail,
    "die": FakeRelay._die,
    "break": FakeRelay._break,
}


class FakeStarter:
    """Starts environments on fake relays; see :class:`workers.environments.starter.Starter`."""

    def __init__(
        self,
        loop: LoopThread,
        shipper: Shipper,
        on_api: Callable[[Environment, ApiRequest], None] | None = None,
        *,
        process: Process = "kept",
        hand_back_s: float = 0.05,
    ) -> None:
        self.script = Script()
        """What the next relay follows."""
        self.on_start: Callable[[Environment], None] = lambda _: None
        """Called as each environment is started, before it has a relay: may wait, or raise ``StartError``."""
        self.relays: Final[dict[str, FakeRelay]] = {}
        """Environment → the relay that it runs on; gone when the environment was destroyed."""
        self.started: Final[list[str]] = []
        self.destroyed: Final[list[str]] = []
        """Ids of environments, in the order in which that happened to them."""
        self.single_use = process != "kept"
        self.hand_back_s = hand_back_s
        self._process: Final = process
        self._loop = loop
        self._shipper = shipper
        self._on_api = on_api
        self._lock = threading.Lock()

    def prepare(self, spec: FunctionSpec, code_url: str) -> str:  # noqa: ARG002 - as every starter's
        """Do nothing: a script needs no code and no image."""
        return ""

    def start(self, environment: Environment, code_url: str) -> None:  # noqa: ARG002 - as every starter's
        """Attach a fake relay and send it START. Raises what ``on_start`` raises; nothing is left behind then."""
        self.on_start(environment)
        self._run_process(environment)
        self.started.append(environment.id)

    def _run_process(self, environment: Environment) -> None:
        def on_api(request: ApiRequest) -> None:
            if self._on_api is not None:
                self._on_api(environment, request)

        per_invocation = self._process == "per invocation"
        relay = FakeRelay(
            self._loop,
            self.script,
            on_log=environment.on_log,
            on_idle=environment.on_idle,
            on_exit=environment.on_process_exit if per_invocation else environment.on_exit,
            on_api=on_api,
        )
        environment.attach(relay, LogBuffer(self._shipper, environment.spec, relay, self._loop))
        self.relays[environment.id] = relay
        spec = environment.spec
        function = FunctionIdentity(spec.function, spec.version, spec.handler)
        self._loop.call(relay.link.start, Start(argv=(), env={}, cwd="/", function=function))

    def activate(self, environment: Environment) -> Callable[[], bool]:
        """Start a new process where each invocation gets one; else just look, since a relay's end is always heard of."""
        if self._process != "per invocation":
            return lambda: environment.usable

        def run_process() -> bool:
            if environment.id not in self.relays:
                return False
            self._run_process(environment)
            return True

        return run_process

    def after_invocation(self, environment: Environment, left_s: float) -> bool:
        """Whether the runtime asks for the next event in time, and may have one."""
        idle = environment.wait_idle(left_s)
        if self._process != "per invocation":
            return idle and not self.single_use
        if not environment.gone.is_set():
            environment.kill()
        environment.reset()
        return environment.id in self.relays

    def destroy(self, environment: Environment) -> None:
        """End the environment's relay, in the background."""
        with self._lock:
            relay = self.relays.pop(environment.id, None)
            if relay is not None:
                self.destroyed.append(environment.id)
        if relay is not None:
            self._loop.submit(relay.close())

    def ready(self, knows: Callable[[str], bool]) -> None:
        """Do nothing: what ends with this process leaves nothing behind."""

    def close(self) -> None:
        """Wait until every relay has ended."""
        self._loop.settle()
