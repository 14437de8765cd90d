"""What the gate makes of the suite's run: a test that fails once is shown, and what fails for good fails the gate."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.gate import MOST_FLAKY, Run, Verdict, describe, judge, names_to_repeat, slowest
from tests.services.gate_report import Report

CHECKOUT = Path(__file__).parents[2]


def suite(*failed: str, status: int | None = None, problems: tuple[str, ...] = (), passed: int = 100) -> Run:
    """A run of the suite in which these tests failed."""
    report = Report(
        passed=[f"t.py::good[{number}]" for number in range(passed)],
        failed={name: f"assert {name}\nfirst time" for name in failed},
        problems=list(problems),
    )
    return Run(int(bool(failed or problems)) if status is None else status, report)


def alone(passed: tuple[str, ...] = (), failed: tuple[str, ...] = (), status: int | None = None) -> Run:
    """A second run."""
    report = Report(passed=list(passed), failed=dict.fromkeys(failed, "second time"))
    return Run(int(bool(failed)) if status is None else status, report)


def last_line(first: Run, again: Run | None = None) -> str:
    return describe(judge(first, again), first)[-1]


def test_a_green_suite_needs_no_second_run() -> None:
    first = suite()
    assert names_to_repeat(first) == []
    assert judge(first, None) == Verdict()
    assert judge(first, None).is_green
    assert last_line(first) == "100 passed, 0 failed"


def test_what_fails_runs_once_more() -> None:
    assert names_to_repeat(suite("t.py::a", "t.py::b[x y]")) == ["t.py::a", "t.py::b[x y]"]


@pytest.mark.parametrize("count", [1, MOST_FLAKY])
def test_a_few_flaky_tests_do_not_fail_the_gate(count: int) -> None:
    names = tuple(f"t.py::flaky{number}" for number in range(count))
    first, again = suite(*names), alone(passed=names)
    verdict = judge(first, again)
    assert verdict.is_green
    assert tuple(verdict.flaky) == names
    shown = "\n".join(describe(verdict, first))
    for name in names:
        assert f"FLAKY {name}\n    assert {name}\n    first time" in shown
    assert last_line(first, again) == f"{100 + count} passed, 0 failed"


def test_one_flaky_test_more_fails_the_gate() -> None:
    names = tuple(f"t.py::flaky{number}" for number in range(MOST_FLAKY + 1))
    first, again = suite(*names), alone(passed=names)
    assert not judge(first, again).is_green
    assert last_line(first, again) == "103 passed, 1 failed"


def test_what_fails_twice_fails_the_gate() -> None:
    first, again = suite("t.py::a", "t.py::b"), alone(passed=("t.py::a",), failed=("t.py::b",))
    verdict = judge(first, again)
    assert not verdict.is_green
    assert (list(verdict.flaky), list(verdict.failed)) == (["t.py::a"], ["t.py::b"])
    assert last_line(first, again) == "101 passed, 1 failed"


def test_what_is_skipped_the_second_time_has_not_passed() -> None:
    again = Run(0, Report(passed=["t.py::a"], skipped=["t.py::b"]))
    verdict = judge(suite("t.py::a", "t.py::b"), again)
    assert list(verdict.failed) == ["t.py::b"]
    assert not verdict.is_green


def test_a_failure_without_a_second_run_fails_the_gate() -> None:
    assert not judge(suite("t.py::a"), None).is_green


def test_too_many_failures_are_not_repeated() -> None:
    assert names_to_repeat(suite(*(f"t.py::broken{number}" for number in range(21)))) == []


@pytest.mark.parametrize("status", [2, 3, 4, 5, 130, 137])
def test_a_run_that_pytest_gave_up_fails_the_gate(status: int) -> None:
    first = suite("t.py::a", status=status)
    assert names_to_repeat(first) == []
    assert not judge(first, None).is_green
    assert not judge(suite(status=status), None).is_green
    assert last_line(suite(status=status)) == "100 passed, 1 failed"


@pytest.mark.parametrize("status", [2, 3, 4, 5, 137])
def test_a_second_run_that_pytest_gave_up_fails_the_gate(status: int) -> None:
    assert not judge(suite("t.py::a"), alone(passed=("t.py::a",), status=status)).is_green


@pytest.mark.parametrize("problem", ["worker 'gw0' crashed while running 't.py::a'", "t.py could not be collected"])
def test_what_is_no_test_s_failure_fails_the_gate(problem: str) -> None:
    verdict = judge(suite("t.py::a", problems=(problem,)), alone(passed=("t.py::a",)))
    assert not verdict.is_green
    assert verdict.problems == [problem]
    assert not judge(suite(problems=(problem,)), None).is_green


def test_a_run_without_a_report_fails_the_gate() -> None:
    assert not judge(Run(0, None), None).is_green
    assert not judge(suite("t.py::a"), Run(0, None)).is_green
    assert last_line(Run(-9, None)) == "0 passed, 1 failed"


def test_a_run_of_no_test_fails_the_gate() -> None:
    assert not judge(suite(passed=0), None).is_green


def test_a_failure_that_no_test_explains_fails_the_gate() -> None:
    assert not judge(suite(status=1), None).is_green


def test_the_slowest_tests_come_first() -> None:
    lines = slowest(Report(seconds={f"t.py::t{number}": float(number) for number in range(12)}))
    assert len(lines) == 10
    assert lines[0].split() == ["11.00", "s", "t.py::t11"]


# --- the whole of it, over a folder of tests ---

FAIL_ONCE = """
import pathlib, pytest
HERE = pathlib.Path(__file__).parent

def is_first(name):
    seen = HERE / name
    found = seen.exists()
    seen.touch()
    return not found

def test_good(): pass
@pytest.mark.skip
def test_later(): pass

@pytest.mark.parametrize("word", ["x y::[z]"])
def test_fails_the_first_time(word):
    assert not is_first("test"), "the first time"

@pytest.fixture
def fragile():
    yield
    assert not is_first("fixture"), "its fixture the first time"
def test_with_a_fragile_fixture(fragile): pass
"""
BREAKS = """
def test_that_breaks(): assert not "for good"
"""
DIES_ONCE = """
import os, pathlib
def test_that_dies():
    seen = pathlib.Path(__file__).with_name("died")
    if not seen.exists():
        seen.touch()
        os._exit(3)
"""


def run_gate(folder: Path, *sources: str) -> "subprocess.CompletedProcess[str]":
    """Run the gate over a folder with these test files, ``test_0.py`` first."""
    folder.joinpath("pytest.ini").write_text("[pytest]\n")
    for number, source in enumerate(sources):
        folder.joinpath(f"test_{number}.py").write_text(source)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # Without the other plugins each process starts in a third of the time.
    plain |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p xdist.plugin", "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "tests.services.gate", "-q", "-n", "1", "--rootdir", str(folder), str(folder)]
    return subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, check=False)


def test_tests_that_fail_the_first_time_only(tmp_path: Path) -> None:
    done = run_gate(tmp_path, FAIL_ONCE)
    assert done.returncode == 0, done.stdout + done.stderr
    flaky = done.stdout.partition("FLAKY test_0.py::test_fails_the_first_time[x y::[z]]")[2]
    assert "AssertionError: the first time" in flaky
    assert "FLAKY test_0.py::test_with_a_fragile_fixture" in flaky
    assert "AssertionError: its fixture the first time" in flaky
    assert "test_0.py::test_good" in done.stdout.partition("slowest tests")[2]
    assert done.stdout.splitlines()[-1] == "3 passed, 0 failed, 1 skipped"


def test_a_test_that_breaks_and_a_process_that_dies_once(tmp_path: Path) -> None:
    done = run_gate(tmp_path, BREAKS, DIES_ONCE)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "crashed while running 'test_1.py::test_that_dies'" in done.stdout.partition("PROBLEM")[2]
    assert "FAILED test_0.py::test_that_breaks" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 passed, 1 failed"


def test_a_file_that_can_t_be_collected(tmp_path: Path) -> None:
    done = run_gate(tmp_path, "def test_good(): pass", "import no_such_module_anywhere")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "PROBLEM test_1.py could not be collected" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(" passed, 1 failed")
