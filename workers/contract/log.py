"""Structured logs: the standard library's logging, one JSON line a record on standard error, or short lines for people.

Fields go in ``extra``: ``log.info("environment started", extra={"environment": id})``. Payloads and the values of
environment variables are never logged, on no level; that is the caller's duty, and :func:`_message` keeps it for foreign
libraries, of which Celery logs the whole body of a message that it can't read.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

OURS: Final = ("dispatcher", "workers")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "data",
    "color_message",
}


def configure(
    process: str, style: Literal["auto", "json", "text"] = "auto", *, debug: bool = False, stream: TextIO | None = None
) -> None:
    """Send every logger's records to ``stream`` (standard error); foreign libraries speak from warnings on."""
    stream = stream or sys.stderr
    as_text = style == "text" or (style == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(process) if as_text else JsonFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "kombu"):
        # These bring handlers of their own.
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.captureWarnings(capture=True)


class JsonFormatter(logging.Formatter):
    """``{"time","level","process","logger","message",…fields}``; time is UTC."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": _message(record),
            **fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """``12:30:01 worker  message field=value``; the level is named from warnings on. Time is local."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, and the traceback if there is one."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        rest = "".join(f" {name}={value}" for name, value in fields(record).items())
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return f"{time} {self._process:<10} {level}{_message(record)}{rest}{trace}"


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as ``extra``."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.name.split(".")[0] in OURS:
        return text
    return text.strip().partition("\n")[0][:500]
