"""``everwarm ps`` and ``everwarm logs``."""

import json
import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from dispatcher.cli.client import Server, segment

_COLUMNS = ("id", "function", "version", "mode", "channel", "state", "worker", "container")


def environments(server: Server, *, as_json: bool) -> None:
    """Print the warm environments: a table, or the server's own document."""
    found = server.json("/_everwarm/environments")
    if as_json:
        print(json.dumps(found))
        return
    if not found["environments"]:
        print("no warm environments")
        return
    table = Table(*(column.upper() for column in _COLUMNS), "LAST USE", box=None)
    for row in found["environments"]:
        table.add_row(*(str(row.get(column) or "-") for column in _COLUMNS), _ago(row.get("last_use")))
    terminal().print(table)


def terminal() -> Console:
    """Standard output for tables; wide where no person looks, and names are never taken for markup."""
    return Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else 300)


def _ago(last_use_ms: int | None) -> str:
    """How long ago ``last_use_ms`` (Unix time in ms) was."""
    if not last_use_ms:
        return "-"
    return f"{timedelta(seconds=max(0, round(time.time() - last_use_ms / 1000)))} ago"


def function_log(server: Server, function: str, *, follow: bool) -> None:
    """Copy a function's log to standard output; with ``follow`` until Ctrl-C."""
    path = f"/_everwarm/logs/{segment(function)}" + ("?follow=1" if follow else "")
    try:
        for line in server.lines(path):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    except (KeyboardInterrupt, BrokenPipeError):
        # The reader has seen enough; nothing more may be written, not even at exit.
        sys.stdout = None
