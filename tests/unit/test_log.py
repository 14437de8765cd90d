"""Logs: the form of the lines, and that foreign libraries can't put message bodies into them."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest
from celery.worker.consumer import consumer

from workers.contract import log


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    for name in log.OURS:
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_json_line_has_the_fields() -> None:
    out = io.StringIO()
    log.configure("worker", "json", stream=out)
    logging.getLogger("workers.x").info("environment %s", "started", extra={"environment": "e1", "ms": 3})
    line = json.loads(out.getvalue())
    assert datetime.fromisoformat(line.pop("time")).tzinfo
    assert line == {
        "level": "info",
        "process": "worker",
        "logger": "workers.x",
        "message": "environment started",
        "environment": "e1",
        "ms": 3,
    }


def test_exception_stays_on_its_line() -> None:
    out = io.StringIO()
    log.configure("worker", "json", stream=out)
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("workers").exception("failed")
    (line,) = out.getvalue().splitlines()
    assert "ValueError: no" in json.loads(line)["exception"]


def test_a_line_of_text_has_its_extras() -> None:
    out = io.StringIO()
    log.configure("dispatcher", "text", stream=out)
    logging.getLogger("dispatcher").warning("late", extra={"ms": 3})
    assert out.getvalue().endswith(" dispatcher warning: late ms=3\n")


def test_auto_is_json_off_a_terminal() -> None:
    out = io.StringIO()
    log.configure("dispatcher", "auto", stream=out)
    logging.getLogger("dispatcher").info("ready")
    assert json.loads(out.getvalue())["message"] == "ready"


def test_debug_is_for_our_own_loggers() -> None:
    out = io.StringIO()
    log.configure("worker", "json", debug=True, stream=out)
    logging.getLogger("workers").debug("ours")
    logging.getLogger("kombu").debug("theirs")
    logging.getLogger("botocore").info("theirs")
    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()] == ["ours"]


def test_celery_can_not_log_the_body_of_a_message() -> None:
    out = io.StringIO()
    log.configure("worker", "json", stream=out)
    body = {"planted": "secret"}
    consumer.logger.error(consumer.UNKNOWN_TASK_ERROR, "everwarm.other", body, {}, body)
    consumer.logger.error(consumer.INVALID_TASK_ERROR, "no args", body)
    assert "everwarm.other" in out.getvalue()
    assert "planted" not in out.getvalue()
