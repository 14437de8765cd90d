"""Settings: each process reads its environment variables once, at start, into one frozen Struct.

A Struct's field says everything about its variable: type, default, and an :class:`Setting` in ``Annotated``. Nobody else
reads ``os.environ``. An empty variable counts as unset. An invalid value stops the start with a :class:`SettingError`.

:class:`Shared` is what dispatcher and workers both need; ``dispatcher.settings`` and ``workers.settings`` extend it.
"""

import json
import os
import re
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from workers.contract.messages import MODES, Mode

Environ = Mapping[str, str]
Parse = Callable[[str], Any]
S = TypeVar("S", bound="Shared")

_HIDDEN: Final = "(not shown)"


class SettingError(Exception):
    """A variable has a value that can't be used: the caller's fault. The message names variable, value and what is valid."""

    def __init__(self, name: str, value: str, why: str) -> None:
        super().__init__(f"{name}={value}: {why}")
        self.name = name
        self.value = value
        self.why = why


class Setting(msgspec.Struct, frozen=True):
    """What a field knows of its variable. ``parse`` raises ``ValueError`` with a phrase that says what is valid."""

    name: str
    parse: Parse
    doc: str
    unit: str = ""
    secret: bool = False


# --- parse functions: text to value, or ValueError saying what is valid ---


def text(value: str) -> str:
    """The text as it is."""
    return value


def boolean(value: str) -> bool:
    """``1`` and ``0``; the words true/false, yes/no and on/off are taken as well."""
    word = value.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError("must be 1 or 0")


def integer(low: int, high: int) -> Parse:
    """A whole number from ``low`` to ``high``."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"-?\d{1,18}", value.strip()) or not low <= int(value) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(value)

    return parse


def number(low: float, high: float) -> Parse:
    """A decimal number from ``low`` to ``high``."""

    def parse(value: str) -> float:
        if not re.fullmatch(r"-?\d{1,18}(\.\d{1,9})?", value.strip()) or not low <= float(value) <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return float(value)

    return parse


def one_of(*words: str) -> Parse:
    """One of the words."""

    def parse(value: str) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return value

    return parse


def names(value: str) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(word.strip() for word in value.split(",") if word.strip())


def folder(value: str) -> Path:
    """An absolute path; ``~`` is the home directory."""
    path = Path(value).expanduser()
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def folders(value: str) -> tuple[Path, ...]:
    """Absolute paths separated by colons."""
    try:
        return tuple(folder(part) for part in value.split(":") if part)
    except ValueError:
        raise ValueError("must be absolute paths separated by colons") from None


def url(*schemes: str) -> Parse:
    """A URL with one of the schemes; what follows the scheme is the business of whoever opens it."""

    def parse(value: str) -> str:
        if urlsplit(value).scheme not in schemes or "://" not in value:
            raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value.rstrip("/") if "http" in schemes else value

    return parse


def size(value: str) -> int:
    """Bytes, or a number with K, M or G (powers of 1024; a trailing B is taken as well)."""
    match = re.fullmatch(r"(\d{1,15})\s*([KMG]?)B?", value.strip().upper())
    if not match:
        raise ValueError("must be a number of bytes, or a number with K, M or G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def uid_range(value: str) -> range:
    """``A-B``, both included, never reaching down to the user ids that people and services have."""
    match = re.fullmatch(r"(\d{1,10})-(\d{1,10})", value.strip())
    if not match or not 100_000 <= int(match[1]) <= int(match[2]) < 2**32 - 2:
        raise ValueError("must be a range A-B of user ids that nobody else has, from 100000 to 4294967293")
    return range(int(match[1]), int(match[2]) + 1)


def json_object(value: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError("must be a JSON object")
    return found


def commands(value: str) -> dict[str, str]:
    """A JSON object runtime → command line, such as ``{"python3.12": "/opt/python3.12/bin/python3"}``."""
    why = 'must be a JSON object such as {"python3.12": "/opt/python3.12/bin/python3"}'
    try:
        found = json_object(value)
    except ValueError:
        raise ValueError(why) from None
    if not all(isinstance(line, str) and line.strip() for line in found.values()):
        raise ValueError(why)
    return found


# --- what both sides need ---


def default_data_dir(environ: Environ) -> Path:
    """Root: ``/var/lib/everwarm``. Others: ``everwarm`` in the XDG data directory."""
    if os.geteuid() == 0:
        return Path("/var/lib/everwarm")
    base = environ.get("XDG_DATA_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".local/share") / "everwarm"


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that dispatcher and workers both read."""

    redis_url: Annotated[
        str,
        Setting(
            "EVERWARM_REDIS_URL",
            url("redis", "unix"),
            "Redis, as redis-py writes it: redis://:password@host:6379/0 or unix://:password@/path?db=0;"
            " unset: `everwarm up` starts its own",
            secret=True,
        ),
    ] = ""
    executor: Annotated[
        Mode | None,
        Setting("LAMBDA_EXECUTOR", one_of(*MODES), "the default mode; unset: docker if a daemon answers, else local"),
    ] = None
    data_dir: Annotated[
        Path,
        Setting(
            "EVERWARM_DATA",
            folder,
            "directory for everything that is kept; default: /var/lib/everwarm for root, else ~/.local/share/everwarm",
        ),
    ] = Path()
    local_uids: Annotated[
        range, Setting("EVERWARM_LOCAL_UIDS", uid_range, "user ids for local environments when started as root: A-B")
    ] = range(1_900_000_000, 1_900_065_536)
    function_api: Annotated[
        Literal["invoke", "all", "none"],
        Setting(
            "EVERWARM_FUNCTION_API",
            one_of("invoke", "all", "none"),
            "what functions may call of this server's Lambda API through their relay",
        ),
    ] = "invoke"
    max_payload_bytes: Annotated[
        int,
        Setting(
            "LAMBDA_LIMITS_MAX_FUNCTION_PAYLOAD_SIZE_BYTES",
            integer(1, 1 << 30),
            "largest request or response of a synchronous call",
            "bytes",
        ),
    ] = 6_291_556
    drain_s: Annotated[
        float,
        Setting(
            "EVERWARM_DRAIN_S",
            number(0, 3600),
            "how long a stopping process waits for running invocations; `everwarm up` gives its parts 7",
            "s",
        ),
    ] = 900.0
    log: Annotated[
        Literal["auto", "json", "text"],
        Setting(
            "EVERWARM_LOG",
            one_of("auto", "json", "text"),
            "how log lines are written; auto: text on a terminal, else json",
        ),
    ] = "auto"
    debug: Annotated[bool, Setting("DEBUG", boolean, "1: debug logging")] = False
    supervised: Annotated[
        bool, Setting("EVERWARM_SUPERVISED", boolean, "set by `everwarm up` for its parts: it has printed the warnings")
    ] = False

    def __repr__(self) -> str:
        """As any Struct's, without the secrets."""
        return f"{type(self).__name__}({', '.join(f'{row.field}={row.value}' for row in describe(self, {}))})"


class Row(msgspec.Struct, frozen=True):
    """One line of :func:`describe`."""

    field: str
    variable: str
    value: str
    source: Literal["environment", "default"]
    doc: str


def declared(cls: type[Shared]) -> dict[str, Setting]:
    """Field → its Setting."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field: setting
        for field in cls.__struct_fields__
        for setting in getattr(hints[field], "__metadata__", ())
        if isinstance(setting, Setting)
    }


def parse_variable(name: str, value: str, parse: Parse, *, secret: bool = False) -> Any:
    """The value, or :class:`SettingError`."""
    try:
        return parse(value)
    except ValueError as error:
        raise SettingError(name, _HIDDEN if secret else value, str(error)) from None


def read(cls: type[S], environ: Environ) -> S:
    """Build the settings from the variables; raises :class:`SettingError` at the first invalid one."""
    found = {
        field: parse_variable(setting.name, environ[setting.name], setting.parse, secret=setting.secret)
        for field, setting in declared(cls).items()
        if environ.get(setting.name)
    }
    for name, (parse, _) in NOT_IN_THIS_VERSION.items():
        if environ.get(name):
            parse_variable(name, environ[name], parse)
    return cls(**{"data_dir": default_data_dir(environ), **found})


def describe(settings: Shared, environ: Environ) -> list[Row]:
    """What is set to what and by whom, without the secrets; for `everwarm doctor` and ``repr``."""
    rows = []
    for field, setting in declared(type(settings)).items():
        value = getattr(settings, field)
        shown = _HIDDEN if setting.secret and value else as_text(value)
        source: Literal["environment", "default"] = "environment" if environ.get(setting.name) else "default"
        rows.append(Row(field, setting.name, f"{shown} {setting.unit}".strip(), source, setting.doc))
    return rows


def as_text(value: object) -> str:
    """A value as people write it in its variable."""
    if isinstance(value, range):
        return f"{value.start}-{value.stop - 1}"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


# --- variables that people know and this version does not use ---


#: Variable → how its value is checked, and what the one warning line says.
NOT_IN_THIS_VERSION: Final[dict[str, tuple[Parse, str]]] = {
    "LAMBDA_FALLBACK_URL": (
        url("http", "https", "dynamodb"),
        "is not in this version yet; a function that does not exist answers 404",
    ),
    "LAMBDA_FORWARD_URL": (url("http", "https"), "is not in this version yet; invocations run here"),
    "LAMBDA_JAVA_OPTS": (
        text,
        "is for Java, which this version does not have yet; set JAVA_TOOL_OPTIONS in the function's environment",
    ),
}

#: Every EVERWARM_ variable that some process of this version reads; a test holds it against the Structs.
KNOWN: Final = frozenset(
    f"EVERWARM_{name}"
    for name in (  # noqa: SIM905 - one name a line would be 30 lines
        "REDIS_URL DATA LOCAL_UIDS FUNCTION_API LOG SUPERVISED "
        "HOST PORT IMAGE_WORKER DATABASE_URL ADVERTISE_URL SYNC_QUEUE_WAIT_S CREDENTIALS ALLOWED_HOSTS ALLOWED_ORIGINS INSECURE "
        "HOT_RELOAD_ROOTS S3_ENDPOINT S3_ACCESS_KEY S3_SECRET_KEY S3_REGION REAL_AWS LOGS_MAX METRICS_TOKEN "
        "SQS_ENDPOINT SNS_ENDPOINT EVENTBRIDGE_ENDPOINT AWS_ACCESS_KEY AWS_SECRET_KEY "
        "MODE CONCURRENCY ENDPOINT DRAIN_S LOCAL_RUNTIMES MAX_ENVIRONMENTS WORKER_NAME CPU_QUOTA MEMORY_BUDGET_MB "
        "MAX_STARTS SYNC_RESERVE TIME_SCALE LEDGER_RESULT_MAX LEDGER_RETENTION"
    ).split()
)


def warnings(environ: Environ) -> list[str]:
    """One line for each variable that is set and has no effect."""
    lines = [f"{name} {line}" for name, (_, line) in NOT_IN_THIS_VERSION.items() if environ.get(name)]
    unknown = sorted(name for name in environ if name.startswith("EVERWARM_") and name not in KNOWN)
    for name in unknown:
        if name not in NOT_IN_THIS_VERSION and environ[name]:
            lines.append(
                f"{name} is not a setting of Everwarm and has no effect; see `everwarm doctor` for all of them"
            )
    return lines
