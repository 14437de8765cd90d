"""``everwarm invocations``."""

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.cli.client import Server, segment
from dispatcher.cli.show import terminal
from dispatcher.wire.arn import parse_function_name
from dispatcher.wire.errors import AwsError
from workers.contract.settings import SettingError

_PAGE: Final = "/_everwarm/invocations"
_COLUMNS: Final = ("request_id", "function", "state", "attempt", "accepted_at", "ended_at", "condition", "error_type")
_COLOURS: Final = {
    "queued": "yellow", "fed": "cyan", "succeeded": "green", "failed": "red", "cancelled": "magenta",
    "delivered": "green", "success": "green",
}  # fmt: skip


def show_events(server: Server, filters: Mapping[str, str | None], limit: int, *, as_json: bool) -> None:
    """Print the newest that match: a table, or the server's own document."""
    query = urlencode({**_given(filters), "limit": str(limit)})
    found = server.json(f"{_PAGE}?{query}")
    if as_json:
        print(json.dumps(found))
        return
    rows = found["invocations"]
    if not rows:
        print("no invocations")
        return
    table = Table(*(column.upper().replace("_", " ") for column in _COLUMNS), "ORIGIN", box=None)
    for row in rows:
        cells = [_coloured(row[column]) if column == "state" else _text(row[column]) for column in _COLUMNS]
        table.add_row(*cells, _text(row["origin"]))
    terminal().print(table)
    if len(rows) == limit:
        terminal().print(f"(the newest {limit}; more with --limit, older ones with --until)")


def show_event(server: Server, request_id: str, *, as_json: bool) -> None:
    """Print everything about one event."""
    found = server.json(_path(request_id))
    if as_json:
        print(json.dumps(found))
        return
    console = terminal()
    lines = Table.grid(padding=(0, 2))
    name = f"{found['function']}:{found['qualifier']}" if found["qualifier"] else found["function"]
    for label, value in (
        ("request id", found["request_id"]), ("function", f"{name} ({found['account']}, {found['region']})"),
        ("state", _coloured(found["state"])), ("condition", found["condition"]), ("error", _error(found)),
        ("accepted", found["accepted_at"]), ("due", found["due_at"]), ("ended", found["ended_at"]),
        ("lane", found["lane"]), ("mode", found["mode"]), ("origin", found["origin"]), ("parent", found["parent"]),
        ("trace", found["trace_id"]),
    ):  # fmt: skip
        if value:
            lines.add_row(f"{label}:", value if isinstance(value, Text) else Text(_printable(str(value))))
    console.print(lines)
    encoding = "" if found["payload_encoding"] == "utf-8" else f", {found['payload_encoding']}"
    _block(console, f"payload ({found['payload_size']} bytes{encoding})", found["payload"])
    for attempt in found["attempts"]:
        _show_attempt(console, attempt)
    for delivery in found["deliveries"]:
        _show_delivery(console, delivery)


def _show_attempt(console: Console, attempt: Mapping[str, Any]) -> None:
    console.print()
    console.print(Text.assemble(f"attempt {attempt['number']}: ", _coloured(attempt["kind"], "red")))
    lines = Table.grid(padding=(0, 2))
    for label, value in (
        ("began", attempt["started_at"]), ("lasted", f"{attempt['duration_ms']} ms"), ("worker", attempt["worker"]),
        ("environment", attempt["environment"]), ("version", attempt["version"]), ("error", _error(attempt)),
    ):  # fmt: skip
        if value:
            lines.add_row(f"  {label}:", Text(_printable(str(value))))
    console.print(lines)
    cut = f", the first {len(attempt['result'].encode())} of them kept" if attempt["result_truncated"] else ""
    _block(console, f"  result ({attempt['result_size']} bytes{cut})", attempt["result"])
    _block(console, "  end of the log", attempt["log_tail"])


def _show_delivery(console: Console, delivery: Mapping[str, Any]) -> None:
    console.print()
    console.print(Text.assemble(f"{delivery['kind']} {delivery['target']}: ", _coloured(delivery["state"])))
    tries = f"  tries: {delivery['tries']}" + (f", the next at {delivery['due_at']}" if delivery["due_at"] else "")
    console.print(tries)
    if delivery["error"]:
        console.print(f"  error: {_printable(delivery['error'])}")


def _block(console: Console, title: str, text: str) -> None:
    """A text of several lines; soft-wrapped, so that it can be copied as it is."""
    if text.strip():
        console.print(f"{title}:")
        for line in text.rstrip("\n").split("\n"):
            console.print(Text(f"    {_printable(line)}"), soft_wrap=True)


def cancel_event(server: Server, request_id: str, *, as_json: bool) -> None:
    """Cancel one event."""
    found = server.post(f"{_path(request_id)}/cancel", {})
    print(json.dumps(found) if as_json else f"cancelled {request_id}")


def cancel_events(server: Server, filters: Mapping[str, str | None], *, as_json: bool) -> None:
    """Cancel what matches (without filters: everything), with as many requests as it takes."""
    given = _given(filters) or {"all": True}
    total, request_ids, more = 0, [], True
    while more:
        found = server.post(f"{_PAGE}/cancel", given)
        total += found["cancelled"]
        request_ids += found["request_ids"]
        more = found["more"] and found["cancelled"] > 0
    if as_json:
        print(json.dumps({"cancelled": total, "request_ids": request_ids[:1000], "more": found["more"]}))
    else:
        # The last request cancelled nothing: what is left are attempts that ended, and whose outcomes are on their way.
        left = "; there are more, cancel again" if found["more"] else ""
        print(f"cancelled {total} invocation{'' if total == 1 else 's'}{left}")


def _path(request_id: str) -> str:
    return f"{_PAGE}/{segment(_checked('REQUEST_ID', request_id))}"


def _given(filters: Mapping[str, str | None]) -> dict[str, Any]:
    """The filters that were given. An ARN as the function gives account and region too, unless they have options of their own."""
    given = {name: _checked(f"--{name}", value) for name, value in filters.items() if value is not None}
    if (function := given.pop("function", None)) is not None:
        given = {**_function(function), **given}
    return given


def _function(text: str) -> dict[str, str]:
    """Filters for a function's name in any of the forms that AWS's API takes, without a qualifier."""
    parts = text.split(":")
    # The parser takes only ARNs of the caller's region; here any is good.
    region = parts[3] if parts[0] == "arn" and len(parts) > 3 else parts[0] if len(parts) > 3 else ""
    try:
        found = parse_function_name(text, "", region)
    except AwsError:
        raise SettingError("--function", repr(text), "must be the name of a function, or its ARN") from None
    if found.qualifier is not None:
        # An event keeps the qualifier that it came with, but no filter looks for it.
        why = f"must be without a version or an alias: all events of {found.name} are found together"
        raise SettingError("--function", repr(text), why)
    place = {"account": found.account, "region": found.region, "function": found.name}
    return {name: value for name, value in place.items() if value}


def _checked(name: str, text: str) -> str:
    """``text`` if it can be sent."""
    if not text:
        raise SettingError(name, repr(text), "must not be empty")
    try:
        text.encode()
    except UnicodeError:
        # Python keeps bytes of the command line that are no UTF-8 as halves of characters.
        raise SettingError(name, repr(text), "must be UTF-8") from None
    return text


def _error(of: Mapping[str, Any]) -> str:
    return ": ".join(part for part in (of["error_type"], of["error_message"]) if part)


def _text(value: object) -> Text:
    return Text("-" if value in (None, "") else _printable(str(value)))


def _coloured(word: str, otherwise: str = "") -> Text:
    return Text(word, style=_COLOURS.get(word, otherwise))


def _printable(text: str) -> str:
    """What a function wrote must not command the terminal."""
    return "".join(c if c.isprintable() or c in "\t\n" else "\ufffd" for c in text)
