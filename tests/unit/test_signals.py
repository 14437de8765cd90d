"""Programs that tests start take signals as they do for a person, whoever started the tests."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.services.signals import handling, ignored, restore_defaults

ALL = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
SAY_WHICH_ARE_IGNORED = """
import signal
print(*(number.name for number in signal.Signals if signal.getsignal(number) is signal.SIG_IGN))
"""


@pytest.fixture(autouse=True)
def _handlers_stay() -> Iterator[None]:
    """What a test sets is undone."""
    before = {number: signal.getsignal(number) for number in ALL}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ignored_in_a_program() -> set[str]:
    done = subprocess.run([sys.executable, "-c", SAY_WHICH_ARE_IGNORED], check=True, capture_output=True, text=True)
    # Python itself always ignores these two.
    return set(done.stdout.split()) - {"SIGPIPE", "SIGXFSZ"}


def test_programs_have_default_signals() -> None:
    assert ignored_in_a_program() == set()


def test_programs_inherit_what_is_ignored_for_a_while_only() -> None:
    with ignored(*ALL):
        assert ignored_in_a_program() == {number.name for number in ALL}
    assert ignored_in_a_program() == set()


def test_defaults_are_restored_after_a_start_in_the_background() -> None:
    with ignored(*ALL):
        restore_defaults()
        assert ignored_in_a_program() == set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_hangup_stays_without_effect_for_the_tests_themselves() -> None:
    with ignored(signal.SIGHUP):
        restore_defaults()
        signal.raise_signal(signal.SIGHUP)


def test_blocked_signals_reach_this_process_again() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    restore_defaults()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


def test_own_handlers_stay() -> None:
    def own(number: int, frame: object) -> None:
        pass

    with handling(own, *ALL):
        restore_defaults()
        assert {signal.getsignal(number) for number in ALL} == {own}
