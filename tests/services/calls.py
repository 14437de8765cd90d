"""Calls that run beside the test."""

import threading
from concurrent.futures import Future
from typing import Any

from tests.services.functions import Answer, Functions
from tests.services.waiting import wait_until


def start_call(functions: Functions, name: str, event: Any, **members: Any) -> "Future[Answer]":
    """Invoke in a thread of its own."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(functions.invoke(name, event, **members))
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future


def states(functions: Functions, name: str) -> list[str]:
    """The states of the function's environments."""
    return sorted(found["state"] for found in functions.environments(name))


def wait_until_running(functions: Functions, name: str, count: int = 1) -> None:
    """Until that many calls of the function run."""
    wait_until(f"{count} calls of {name} run", lambda: states(functions, name).count("leased") >= count)


def wait_until_idle(functions: Functions, name: str, count: int = 1) -> None:
    """Until the function has ``count`` idle environments, and no others."""
    try:
        wait_until(f"{name} has {count} idle environments", lambda: states(functions, name) == ["idle"] * count)
    except AssertionError as error:
        raise AssertionError(f"{error}; states: {states(functions, name)}") from None


def wait_until_handed_back(functions: Functions, name: str) -> None:
    """Until no call of the function has an environment any more, and one can be used again where the mode keeps any."""
    wanted = {"idle"} if functions.keeps_environment else set()
    wait_until(f"the environments of {name} are handed back", lambda: set(states(functions, name)) == wanted, 15)
