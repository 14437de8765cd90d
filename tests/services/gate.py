"""The test suite as the gate runs it: ``python -m tests.services.gate [PYTEST'S ARGUMENTS]``.

What fails runs once more, alone: after the suite, one test at a time, in a new process on the same engine. What passes
then is printed as ``FLAKY`` with its first failure. Up to :data:`MOST_FLAKY` of them do not fail the gate; one more does,
and so does a test that fails twice, and whatever is no test's failure: a file that can't be collected, a test process that
died, a run that pytest itself gave up.

The last line of standard output counts the tests, alone on its line; the status is 0 or 1.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.services.gate_report import Report
from tests.services.signals import run_command

MOST_FLAKY: Final = 2
#: When more fail nothing is learnt from the second run that is worth its time: too many for the gate they are anyway.
_MOST_AGAIN: Final = 20
_SLOWEST: Final = 10
_RULE: Final = "-" * 80


@dataclass(frozen=True)
class Run:
    """A run of pytest that has ended."""

    status: int
    report: Report | None
    """``None`` when pytest did not come so far as to write it."""


@dataclass(frozen=True)
class Verdict:
    """What the gate makes of one or two runs."""

    flaky: dict[str, str] = field(default_factory=dict)
    """Tests that failed first and then passed alone, each with its first failure."""
    failed: dict[str, str] = field(default_factory=dict)
    """Tests that did not pass alone either, or had no second run; each with its first failure."""
    problems: list[str] = field(default_factory=list)
    """What fails the gate and is no test's failure."""

    @property
    def is_green(self) -> bool:
        """Whether the gate lets it pass."""
        return not self.failed and not self.problems and len(self.flaky) <= MOST_FLAKY


def names_to_repeat(first: Run) -> list[str]:
    """The tests that are worth a second run: none where that could not change anything."""
    failed = [] if first.report is None else list(first.report.failed)
    return failed if first.status == pytest.ExitCode.TESTS_FAILED and len(failed) <= _MOST_AGAIN else []


def judge(first: Run, again: Run | None) -> Verdict:
    """Decide by the suite's run, and by the second one of what failed in it."""
    report = first.report or Report()
    problems = [*_own_problems("the suite", first)]
    passed_alone: set[str] = set()
    if again is not None:
        problems += _own_problems("the second run", again)
        passed_alone = set() if again.report is None else set(again.report.passed)
    return Verdict(
        flaky={name: text for name, text in report.failed.items() if name in passed_alone},
        failed={name: text for name, text in report.failed.items() if name not in passed_alone},
        problems=problems,
    )


def _own_problems(name: str, run: Run) -> list[str]:
    """What went wrong with a run itself, in words."""
    report = run.report
    if report is None:
        return [f"{name} ended with status {run.status} before pytest had a report"]
    found = list(report.problems)
    if run.status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        found.append(f"pytest gave up {name} with status {run.status}")
    elif run.status == pytest.ExitCode.TESTS_FAILED and not report.failed and not found:
        found.append(f"pytest says that {name} failed, but no test did")
    elif not report.passed and not report.failed:
        found.append(f"{name} ran no test")
    return found


def describe(verdict: Verdict, first: Run) -> list[str]:
    """What people are told, the count of the tests last."""
    lines = [f"\n{_RULE}"]
    lines += [f"FLAKY {name}\n{_indented(text)}" for name, text in verdict.flaky.items()]
    lines += [f"PROBLEM {problem}" for problem in verdict.problems]
    lines += [f"FAILED {name}" for name in verdict.failed]
    if len(verdict.flaky) > MOST_FLAKY:
        lines.append(f"{len(verdict.flaky)} flaky tests are too many: the gate lets {MOST_FLAKY} pass.")
    report = first.report or Report()
    passed = len(report.passed) + len(verdict.flaky)
    # Whoever reads only the count must not take a run that was given up for a good one.
    failed = len(verdict.failed) or int(not verdict.is_green)
    skipped = f", {len(report.skipped)} skipped" if report.skipped else ""
    return [*lines, f"{passed} passed, {failed} failed{skipped}"]


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def slowest(report: Report) -> list[str]:
    """The tests that took longest, as lines."""
    order = sorted(report.seconds.items(), key=lambda item: -item[1])[:_SLOWEST]
    return [f"{seconds:8.2f} s  {name}" for name, seconds in order]


def _run(arguments: Sequence[str], file: Path) -> Run:
    command = [sys.executable, "-m", "pytest", "-p", "tests.services.gate_report", "--gate-report", str(file)]
    status = run_command([*command, *arguments], os.environ)
    try:
        return Run(status, msgspec.json.decode(file.read_bytes(), type=Report))
    except FileNotFoundError:
        return Run(status, None)


def main(arguments: Sequence[str]) -> int:
    """Run the suite, and once more what failed in it; the status."""
    with tempfile.TemporaryDirectory(prefix="everwarm-gate-") as scratch:
        first = _run(arguments, Path(scratch) / "first.json")
        again = None
        if repeated := names_to_repeat(first):
            print(f"\n{_RULE}\nonce more, alone: {len(repeated)} of the tests", flush=True)
            again = _run(["-q", "-n", "0", *repeated], Path(scratch) / "again.json")
    verdict = judge(first, again)
    if first.report is not None:
        print(f"\n{_RULE}\nslowest tests, with their fixtures:", *slowest(first.report), sep="\n")
    print(*describe(verdict, first), sep="\n", flush=True)
    return int(not verdict.is_green)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
