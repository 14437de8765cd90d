"""The docker modes, each beside what the container engine takes for it by itself; stay-open's warm calls beside local's."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mypy_boto3_lambda import LambdaClient

from tests.bench import cold, warm
from tests.bench.load import Client, Size
from tests.bench.primitives import Bare
from tests.bench.table import Line, Missing, Row, latency
from tests.services.docker import KINDS, REGISTRY, image
from tests.services.stack import Stack
from workers.engine import Engine, EngineError

#: Targets of the project.
_WARM, _EXEC, _CYCLE = 1.2, 1.3, 1.2
#: After each turn, so that what it leaves to be done (containers to be removed, namespaces to be made) is nobody's.
_PAUSE_S: Final = 0.75
_FALLBACK: Final = "python3.13"
#: AWS's memory for one whole CPU: a container of Everwarm's then has the weight that a bare one has.
_MEMORY_MB: Final = 1769
_FUNCTION: Final = "bench-mode"

_WARM_LINE: Final = "stay-open, warm call, p50"
_EXEC_LINE: Final = "docker-exec, p50"
_DOCKER_LINE: Final = "docker, p50"
_COLD_LINE: Final = "stay-open, cold start"
_OWN_NETWORK: Final = "  a network namespace of its own"
_NOT_REMOVED: Final = "  beside it without its removal"


@dataclass(frozen=True)
class _Bench:
    """What everything here needs."""

    size: Size
    engine: Engine
    program: cold.Program
    code: Path
    status: Callable[[str], None]

    @property
    def bare(self) -> Bare:
        """The primitives."""
        runtime = self.program.runtime
        return Bare(self.engine, image(runtime), runtime, self.code)


def lines(size: Size, directory: Path, local: Stack, function: str, status: Callable[[str], None]) -> list[Row]:
    """All of them; ``function`` is an echo on the running stack of mode local."""
    try:
        engine = Engine.connect()
    except EngineError:
        return _missing("no container engine answers (see everwarm doctor)")
    try:
        runtime = _runtime(engine, local.client().get_function_configuration(FunctionName=function)["Runtime"])
        if runtime is None:
            return _missing(
                f"the container engine has no image {image(_FALLBACK)}; type: python -m tests.services.engine -- make bench"
            )
        program = cold.Program("Python", runtime, "index__py", cold.PYTHON)  # type: ignore[arg-type]
        code = directory / "code-in-containers"
        code.mkdir()
        (code / "index.py").write_text(program.code)
        bench = _Bench(size, engine, program, code, status)
        return [*_stay_open(bench, local, function), *_docker_exec(bench), *_docker(bench)]
    finally:
        engine.close()


def _missing(why: str) -> list[Row]:
    return [Missing(title, why) for title in (_WARM_LINE, _COLD_LINE, _EXEC_LINE, _DOCKER_LINE)]


def _runtime(engine: Engine, local: str) -> str | None:
    """That of the function in mode local, if the engine has its image: both sides are the same interpreter then."""
    return next((runtime for runtime in (local, _FALLBACK) if engine.image(image(runtime)) is not None), None)


@contextmanager
def _running(kind: str) -> Iterator[Stack]:
    settings = {**KINDS[kind], "LAMBDA_EXECUTOR": KINDS[kind]["EVERWARM_MODE"], "LAMBDA_CONTAINER_REGISTRY": REGISTRY}
    stack = Stack({"EVERWARM_CONCURRENCY": "16", "EVERWARM_MAX_ENVIRONMENTS": "256", **settings})
    try:
        yield stack.start()
    finally:
        stack.close()


def _create(client: LambdaClient, name: str, program: cold.Program) -> None:
    cold.create(client, name, program, memory_mb=_MEMORY_MB)


def _stay_open(bench: _Bench, local: Stack, function: str) -> list[Row]:
    bench.status("stay-open beside local")
    with _running("stay-open") as stack:
        client = stack.client()
        _create(client, _FUNCTION, bench.program)
        warm_line = _warm(bench.size, local, function, stack)
        bench.status("cold starts of stay-open")
        return [warm_line, *_cold(bench, stack, client)]


def _warm(size: Size, local: Stack, function: str, stack: Stack) -> Line:
    samples: dict[Client, list[list[float]]] = {
        Client(warm.connect, local.endpoint, function): [],
        Client(warm.connect, stack.endpoint, _FUNCTION): [],
    }
    try:
        for client in samples:
            client.latencies(size.calls // 4)
        # Short turns, and more of them: what is compared differs by less than the machine does within a second.
        for _ in range(size.rounds * 4):
            for client, found in samples.items():
                found.append(client.latencies(size.calls // 4))
    finally:
        for client in samples:
            client.close()
    plain, ours = (latency(found).p50 for found in samples.values())
    return Line(_WARM_LINE, plain, ours, " ms", _WARM)


def _cold(bench: _Bench, stack: Stack, client: LambdaClient) -> list[Row]:
    connection = warm.Connection(stack.endpoint)
    asked: list[float] = []
    removed: list[float] = []
    apart: list[float] = []
    called: list[float] = []
    with bench.bare.holder() as joined, bench.bare.network() as own:
        for turn in (joined, own):
            turn.cycle()
        for number in range(bench.size.starts):
            time.sleep(_PAUSE_S)
            cycle = joined.cycle()
            asked.append(cycle.asked_ms)
            removed.append(cycle.removed_ms)
            time.sleep(_PAUSE_S)
            name = f"{_FUNCTION}-{number}"
            _create(client, name, bench.program)
            called.append(_timed(connection, name))
            # Its container would take a namespace and a part of the machine from those that follow.
            client.delete_function(FunctionName=name)
            time.sleep(_PAUSE_S)
            apart.append(own.cycle().removed_ms)
    connection.close()
    ours = statistics.median(called)
    return [
        Line(_COLD_LINE, statistics.median(removed), ours, " ms", _CYCLE),
        Line(_NOT_REMOVED, statistics.median(asked), ours, " ms"),
        Line(_OWN_NETWORK, statistics.median(apart), ours, " ms"),
    ]


def _docker_exec(bench: _Bench) -> list[Row]:
    bench.status("docker-exec")
    with _running("docker-exec") as stack, bench.bare.holder() as place, _calls(bench, stack) as call:
        bare, ours = _in_turns(bench.size, place.exec_ms, call)
    return [Line(_EXEC_LINE, bare, ours, " ms", _EXEC)]


def _docker(bench: _Bench) -> list[Row]:
    bench.status("docker")
    with (
        _running("docker") as stack,
        bench.bare.holder() as joined,
        bench.bare.network() as own,
        _calls(bench, stack) as call,
    ):
        bare, apart, ours = _in_turns(
            bench.size, lambda: joined.cycle().removed_ms, lambda: own.cycle().removed_ms, call
        )
    return [Line(_DOCKER_LINE, bare, ours, " ms", _CYCLE), Line(_OWN_NETWORK, apart, ours, " ms")]


@contextmanager
def _calls(bench: _Bench, stack: Stack) -> Iterator[Callable[[], float]]:
    """A call of a function on a stack, in ms."""
    _create(stack.client(), _FUNCTION, bench.program)
    connection = warm.Connection(stack.endpoint)
    yield lambda: _timed(connection, _FUNCTION)
    connection.close()


def _timed(connection: warm.Connection, function: str) -> float:
    began = time.perf_counter()
    connection.invoke(function)
    return (time.perf_counter() - began) * 1000


def _in_turns(size: Size, *sides: Callable[[], float]) -> list[float]:
    """Each side's p50: a few one after another, then the next side's."""
    samples: list[list[list[float]]] = [[] for _ in sides]
    for side in sides:
        side()
    for _ in range(size.rounds):
        for side, found in zip(sides, samples, strict=True):
            time.sleep(_PAUSE_S)
            found.append([side() for _ in range(size.containers)])
    return [latency(found).p50 for found in samples]
