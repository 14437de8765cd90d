"""How an attempt's end is told: AWS's bodies, log lines and figures, by pure functions.

Sources: the wording of Lambda's own errors as recorded against AWS (``docs/aws.md``), and the log lines that the Lambda
developer guide shows under "Working with Lambda function logs".
"""

import json
import math
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from workers.link.answers import Answer, Exited, FunctionError, InitFailed, Response, TimedOut

#: Go's words for signals, which AWS shows.
_SIGNALS: Final = {
    signal.SIGHUP: "hangup",
    signal.SIGINT: "interrupt",
    signal.SIGQUIT: "quit",
    signal.SIGILL: "illegal instruction",
    signal.SIGTRAP: "trace/breakpoint trap",
    signal.SIGABRT: "aborted",
    signal.SIGBUS: "bus error",
    signal.SIGFPE: "floating point exception",
    signal.SIGKILL: "killed",
    signal.SIGUSR1: "user defined signal 1",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGUSR2: "user defined signal 2",
    signal.SIGPIPE: "broken pipe",
    signal.SIGALRM: "alarm clock",
    signal.SIGTERM: "terminated",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """What the caller gets: success or function error, with body and error type; and lines for the log."""

    success: bool
    body: bytes
    error_type: str = ""
    log_lines: str = ""


def ending(answer: Answer | InitFailed | TimedOut, request_id: str, response_limit: int, ephemeral_mb: int) -> Ending:
    """What an answer of the relay means for the caller; ``ephemeral_mb`` is what the function may have in /tmp."""
    if isinstance(answer, Response):
        return _response_ending(answer, request_id, response_limit)
    if isinstance(answer, TimedOut):
        reason = f"Task timed out after {answer.timeout_s:.2f} seconds"
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return failure(
            "Sandbox.Timedout", f"RequestId: {request_id} Error: {reason}", f"{stamp} {request_id} {reason}\n\n"
        )
    if isinstance(answer, Exited):
        error_type = "Runtime.InvalidEntrypoint" if answer.error else "Runtime.ExitError"
        message = f"RequestId: {request_id} Error: {exit_reason(answer, ephemeral_mb)}"
        return failure(error_type, message, f"{message}\n{error_type}\n")
    if isinstance(answer, FunctionError) and answer.too_large:
        return _too_large(response_limit)
    return Ending(success=False, body=answer.body, error_type=answer.error_type or "Unhandled")


def _response_ending(answer: Response, request_id: str, response_limit: int) -> Ending:
    if answer.too_large:
        return _too_large(response_limit)
    if answer.error:
        return failure(answer.error, f"RequestId: {request_id} Error: the response broke off")
    if answer.error_type:
        return Ending(success=False, body=answer.payload, error_type=answer.error_type)
    return Ending(success=True, body=answer.payload)


def _too_large(limit: int) -> Ending:
    return failure(
        "Function.ResponseSizeTooLarge", f"Response payload size exceeded maximum allowed payload size ({limit} bytes)."
    )


def failure(error_type: str, message: str, log_lines: str = "") -> Ending:
    """A function error that Lambda itself words."""
    body = json.dumps({"errorType": error_type, "errorMessage": message}, separators=(",", ":"))
    return Ending(success=False, body=body.encode(), error_type=error_type, log_lines=log_lines)


def exit_reason(end: Exited, ephemeral_mb: int) -> str:
    """Why the runtime is gone, in AWS's words where AWS has any."""
    if end.error:
        return end.error
    if end.disk_full:
        return f"No space left on device: /tmp holds more than {ephemeral_mb} MB (EphemeralStorage)"
    if end.signal is not None:
        return f"Runtime exited with error: signal: {signal_words(end.signal)}"
    if end.exit_code:
        return f"Runtime exited with error: exit status {end.exit_code}"
    return "Runtime exited without providing a reason"


def signal_words(number: int) -> str:
    """Go's name of a signal."""
    try:
        return _SIGNALS.get(signal.Signals(number), f"signal {number}")
    except ValueError:
        return f"signal {number}"


def start_line(request_id: str, version: str) -> str:
    """The first log line of an invocation."""
    return f"START RequestId: {request_id} Version: {version}\n"


def end_lines(
    request_id: str, duration_ms: float, memory_mb: int, used_mb: int, init_ms: float, *, timed_out: bool = False
) -> str:
    """The last log lines of an invocation, END and REPORT; ``init_ms`` is over 0 only after a cold start."""
    init = f"Init Duration: {init_ms:.2f} ms\t" if init_ms else ""
    status = "Status: timeout\t" if timed_out else ""
    return (
        f"END RequestId: {request_id}\n"
        f"REPORT RequestId: {request_id}\tDuration: {duration_ms:.2f} ms\tBilled Duration: {math.ceil(duration_ms)} ms\t"
        f"Memory Size: {memory_mb} MB\tMax Memory Used: {used_mb} MB\t{init}{status}\n"
    )


def used_mb(memory_kb: int) -> int:
    """``Max Memory Used`` of REPORT, in MB."""
    return max(1, math.ceil(memory_kb / 1024))
