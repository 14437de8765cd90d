"""How this process and the programs that it starts take signals.

A program inherits which signals are ignored. A shell's background job ignores SIGINT, and ``nohup`` SIGHUP, so without
:func:`restore_defaults` it would depend on who starts the tests whether a program that they interrupt ends.
"""

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from dispatcher.cli.process import heed_stop_signals


def restore_defaults() -> None:
    """Let everything started from now on have default signals, whatever this process was started with."""
    heed_stop_signals()
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is signal.SIG_IGN:
            # A handler is not inherited by another program, unlike the ignoring that this one stands for.
            signal.signal(number, _do_nothing)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


@contextmanager
def handling(handler: "signal._HANDLER", *numbers: signal.Signals) -> Iterator[None]:
    """Handle these signals so for a while."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def ignored(*numbers: signal.Signals) -> Iterator[None]:
    """Start programs as a shell does in the background: with these signals ignored."""
    with handling(signal.SIG_IGN, *numbers):
        yield


def run_command(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command's status as shells have it. Ctrl-C reaches it by itself; what is sent to this process is passed on."""
    child = subprocess.Popen(command, env=dict(environ))

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    with handling(pass_on, signal.SIGTERM, signal.SIGHUP), handling(signal.SIG_IGN, signal.SIGINT):
        status = child.wait()
    return status if status >= 0 else 128 - status
