"""Child processes that end with their parent, however that ends.

Linux' parent death signal is set between fork and exec, so it works for foreign programs (Redis) too; it stays over exec
and is sent by the kernel when the parent is killed. The signal is tied to the THREAD that started the child: start
children from the main thread only.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)


def spawn(
    argv: Sequence[str], environ: Mapping[str, str], *, output: IO[bytes] | int | None = None
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, so that Ctrl-C reaches only the parent, which stops its parts in order.

    ``output`` takes the child's standard output and standard error; by default both go to this process' standard error.
    """
    return subprocess.Popen(
        argv,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=2 if output is None else output,
        stderr=output,
        start_new_session=True,
        preexec_fn=_end_with(os.getpid()),  # noqa: PLW1509 - this process has one thread
    )


def _end_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        # The mask is inherited, and the supervisor blocks the signals it waits for.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
        if os.getppid() != parent:
            # The parent died before the signal was set.
            os._exit(1)

    return prepare


def heed_stop_signals() -> None:
    """Let SIGINT and SIGTERM end this process, also where whoever started it ignores or blocks them.

    Both are inherited: a shell ignores SIGINT for what it runs in the background, and then neither ``kill -INT`` nor a
    supervisor that sends it would end a command that follows something. SIGHUP stays as it is, because ignoring that one is
    what ``nohup`` is for.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def private_file(path: Path, content: str) -> None:
    """Write a file that only this user can read; replaced as a whole."""
    partial = path.with_name(path.name + ".new")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(content)
    partial.replace(path)
