"""Waiting for a condition: tests never sleep for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(description: str, condition: Callable[[], T], timeout_s: float = 10.0, *, every_s: float = 0.02) -> T:
    """The first true value of ``condition``; fails with the description after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s until {description}; last answer: {found!r}")
        time.sleep(every_s)
    return found
