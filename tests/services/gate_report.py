"""A pytest plugin that writes what the gate decides by: ``-p tests.services.gate_report --gate-report FILE``."""

from collections import defaultdict
from pathlib import Path
from typing import Final

import msgspec
import pytest

#: What xdist puts in place of a phase when the process died that ran the test.
_CRASHED: Final = "???"


class Report(msgspec.Struct):
    """One run of pytest. Tests are named by their node ids."""

    passed: list[str] = []
    failed: dict[str, str] = {}
    """The first failure of each test, as pytest shows it; errors of its fixtures are failures too."""
    skipped: list[str] = []
    problems: list[str] = []
    """What is no test's failure: files that could not be collected, test processes that died."""
    seconds: dict[str, float] = {}
    """How long each test took, its fixtures' setup and teardown included."""


class Recorder:
    """Collects the reports of a run, those of xdist's processes too, and writes them when it ends."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._outcomes: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a phase of a test: setup, call or teardown."""
        name = report.nodeid
        self._seconds[name] += getattr(report, "duration", 0.0)
        if str(report.when) == _CRASHED:
            self._problems.append(report.longreprtext)
        if report.failed:
            self._outcomes[name] = "failed"
            self._texts.setdefault(name, report.longreprtext)
        elif report.skipped:
            self._outcomes.setdefault(name, "skipped")
        elif report.when == "call":
            self._outcomes.setdefault(name, "passed")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take what came of collecting a file."""
        if report.failed:
            problem = f"{report.nodeid} could not be collected:\n{report.longreprtext}"
            # Each of xdist's processes says so.
            if problem not in self._problems:
                self._problems.append(problem)

    def pytest_sessionfinish(self) -> None:
        """Write the report, as a whole or not at all."""
        partial = self._file.with_name(f"{self._file.name}.new")
        partial.write_bytes(msgspec.json.encode(self._report()))
        partial.replace(self._file)

    def _report(self) -> Report:
        def having(outcome: str) -> list[str]:
            return [name for name, found in self._outcomes.items() if found == outcome]

        failed = {name: self._texts[name] for name in having("failed")}
        return Report(having("passed"), failed, having("skipped"), self._problems, dict(self._seconds))


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that names the file."""
    parser.addoption("--gate-report", type=Path, help="write what the gate decides by to this file")


def pytest_configure(config: pytest.Config) -> None:
    """Record in the process that sees all tests, not in those that xdist starts."""
    file = config.getoption("--gate-report")
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(file), "gate-recorder")
