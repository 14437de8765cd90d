"""``python -m tests.bench``: measure, and print the table. Targets decide nothing but a word in it."""

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mypy_boto3_lambda import LambdaClient
from rich.console import Console

from dispatcher.cli.part import ask_worker
from tests.bench import bare, cold, events, modes, relay, warm
from tests.bench.load import Client, Size
from tests.bench.table import Line, Row, latency, table
from tests.services.commands import clean_environ
from tests.services.stack import Stack

THREADS = 16
FUNCTION = "bench-echo"
#: Before each cold start, so that none is measured beside what the one before left to be done.
PAUSE_S = 0.25
#: Targets of the project: warm median and rate against bare Celery, a cold start against the bare runtime.
WARM, RATE, COLD = 1.7, 0.6, 1.3


FULL = Size(rounds=5, calls=400, seconds=2.0, starts=12, containers=6)
QUICK = Size(rounds=2, calls=200, seconds=1.0, starts=4, containers=4)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the time, and of the certainty")
    parser.add_argument("--only", choices=("calls", "events"), help="synchronous calls or asynchronous ones")
    options = parser.parse_args()
    console = Console()
    found = cold.programs(_runtimes())
    if not found:
        raise SystemExit("no Python that functions can use: see `everwarm doctor`")
    with _directory() as directory:
        if options.only != "events":
            _calls(QUICK if options.quick else FULL, directory, found, console)
        if options.only != "calls":
            size = events.QUICK if options.quick else events.FULL
            with console.status("asynchronous calls") as status:
                measured = events.measure(size, directory, THREADS, found[0], status.update)
            console.print(measured)


def _calls(size: Size, directory: Path, found: list[cold.Program], console: Console) -> None:
    with bare.worker(directory / "bare", THREADS) as redis_url, _stack() as stack:
        client, connection = stack.client(), warm.Connection(stack.endpoint)
        cold.create(client, FUNCTION, found[0])
        with console.status("warm calls") as status:
            lines: list[Row] = [
                *_warm(size, Client(bare.connect, redis_url), Client(warm.connect, stack.endpoint, FUNCTION))
            ]
            for program in found:
                status.update(f"cold starts of {program.title}")
                lines += _cold(size, client, connection, directory, program)
            lines += modes.lines(size, directory, stack, FUNCTION, status.update)
            status.update("the relay alone")
            connection.close()
            trips = latency([asyncio.run(relay.round_trips(size.calls * size.rounds))])
    console.print(table(lines, _caption(size)))
    console.print(f"The relay's round trip alone: p50 {trips.p50:.2f} ms, p99 {trips.p99:.2f} ms.")


def _warm(size: Size, plain: Client, everwarm: Client) -> list[Line]:
    """Both sides in turns: one caller, then many."""
    alone: dict[Client, list[list[float]]] = {plain: [], everwarm: []}
    together: dict[Client, list[float]] = {plain: [], everwarm: []}
    try:
        for client in alone:
            client.latencies(size.calls // 4)  # Imports, connections, the first environment.
        for _ in range(size.rounds):
            for client, samples in alone.items():
                samples.append(client.latencies(size.calls))
            for client, rates in together.items():
                rates.append(client.rate(THREADS, size.seconds))
    finally:
        plain.close()
        everwarm.close()
    a, b = latency(alone[plain]), latency(alone[everwarm])
    return [
        Line("warm call, p50", a.p50, b.p50, " ms", WARM),
        Line("warm call, p99", a.p99, b.p99, " ms"),
        Line(
            f"rate, {THREADS} clients",
            statistics.median(together[plain]),
            statistics.median(together[everwarm]),
            "/s",
            RATE,
            at_least=True,
        ),
    ]


def _cold(
    size: Size, client: LambdaClient, connection: warm.Connection, directory: Path, program: cold.Program
) -> list[Line]:
    """Starts of the bare runtime and first calls of functions, in turns; every function is a new one."""
    ours = cold.our_client(directory, program)
    awss = cold.aws_client(directory, program) if program.title == "Python" else None
    name = f"bench-{program.runtime.replace('.', '-')}"
    # The worker looks for the interpreter once, and fetches each zip once.
    cold.first_call_ms(client, connection, name, program)
    started: list[float] = []
    aws_started: list[float] = []
    called: list[float] = []
    fetched: list[float] = []
    for number in range(size.starts):
        time.sleep(PAUSE_S)
        started.append(ours.start_ms())
        called.append(cold.first_call_ms(client, connection, f"{name}-{number}", program))
        if awss is not None:
            aws_started.append(awss.start_ms())
        time.sleep(PAUSE_S)
        fetched.append(cold.first_call_ms(client, connection, f"{name}-{number}-code", program, str(number)))
    bare_ms, cold_ms = statistics.median(started), statistics.median(called)
    lines = [Line(f"cold start, {program.title}", bare_ms, cold_ms, " ms", COLD)]
    if aws_started:
        lines.append(Line("  beside AWS's client", statistics.median(aws_started), cold_ms, " ms", COLD))
    lines.append(Line("  with new code", bare_ms, statistics.median(fetched), " ms"))
    return lines


def _runtimes() -> dict[str, str]:
    rows = ask_worker("workers.doctor", clean_environ())["runtimes"]
    return {row["runtime"]: row["command"] for row in rows if row["command"]}


@contextmanager
def _directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="everwarm-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _stack() -> Iterator[Stack]:
    # Room for every function of the bench, so that none is retired beside a measurement.
    stack = Stack({"EVERWARM_CONCURRENCY": str(THREADS), "EVERWARM_MAX_ENVIRONMENTS": "256"})
    try:
        yield stack.start()
    finally:
        stack.close()


def _caption(size: Size) -> str:
    return (
        "Warm calls: beside a no-op task on plain Celery with its own reply list. Cold starts: the first call of a function,"
        " beside its interpreter with our client for the Runtime API (or AWS's), from its start to its first request."
        " Docker modes: warm beside local's; else beside the bare runtime of the same image through the same client library,"
        " in a network namespace that exists already, as Everwarm's are: docker exec to its first request, or create, start,"
        " first request, remove."
        f" All of Everwarm's are HTTP to HTTP. Medians of {size.rounds} rounds in turns, {size.calls} calls or"
        f" {size.seconds:g} s each, and of {size.starts} cold starts;"
        f" {size.containers} calls a turn in docker and docker-exec."
    )


if __name__ == "__main__":
    main()
