"""The dispatcher's settings."""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from workers.contract import settings as shared
from workers.contract.settings import (
    Environ,
    Setting,
    SettingError,
    Shared,
    boolean,
    folders,
    integer,
    names,
    number,
    parse_variable,
    size,
    text,
    url,
)


class Credential(msgspec.Struct, frozen=True):
    """A key that may call this server, and the account it belongs to."""

    key: str
    secret: str
    account: str

    def __repr__(self) -> str:
        """The credential without its secret, as logs may show it."""
        return f"Credential({self.key}, account {self.account})"


def parse_credentials(value: str) -> tuple[Credential, ...]:
    """Credentials from ``key:secret:account`` separated by commas, or ``@FILE`` with one on each line; raises ``ValueError``."""
    lines = value.split(",")
    if value.startswith("@"):
        try:
            lines = Path(value[1:]).read_text().splitlines()
        except OSError as error:
            raise ValueError(f"can't read the file: {error.strerror}") from None
    return tuple(_credential(line.strip()) for line in lines if line.strip() and not line.startswith("#"))


def _credential(line: str) -> Credential:
    match = re.fullmatch(r"([^:\s]+):(\S+):(\d{12})", line)
    if not match:
        raise ValueError("must be key:secret:account (12 digits), separated by commas, or @FILE with one on each line")
    return Credential(*match.groups())


class Retention(msgspec.Struct, frozen=True):
    """What the ledger keeps of ended events; ``None``: that does not matter."""

    age_s: int | None = None
    events: int | None = None
    bytes: int | None = None

    def __str__(self) -> str:
        """The retention as the variable writes it."""
        events = str(self.events) if self.events else ""
        return ",".join(filter(None, (_in_units(self.age_s, _SPANS), events, _in_units(self.bytes, _SIZES))))


_SPANS: Final = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_SIZES: Final = {"G": 1 << 30, "M": 1 << 20, "K": 1 << 10}


def _in_units(amount: int | None, units: Mapping[str, int]) -> str:
    """``amount`` in the largest of the units that leaves no rest; empty for none."""
    return next((f"{amount // size}{unit}" for unit, size in units.items() if amount % size == 0), "") if amount else ""


def parse_retention(value: str) -> Retention:
    """Retention from an age, a number of events and a size, separated by commas, in any order; what is left out has no limit.

    Raises ``ValueError``.
    """
    found: dict[str, int] = {}
    for part in names(value):
        match = re.fullmatch(r"(\d{1,12})(?:([dhms])|([KMG])B?)?", part)
        unit = (match[2] or match[3] or "") if match else ""
        field = "age_s" if unit in _SPANS else "bytes" if unit in _SIZES else "events"
        if not match or int(match[1]) == 0 or field in found:
            raise ValueError(_RETENTION)
        found[field] = int(match[1]) * {**_SPANS, **_SIZES, "": 1}[unit]
    if not found:
        raise ValueError(_RETENTION)
    return Retention(**found)


_RETENTION: Final = (
    "must be an age (number with d, h, m or s), a number of events and a size (number with K, M or G), each at most once "
    "and above 0, separated by commas: 7d,1000000,10G"
)

#: Field → the variable that AWS's own tools have for it, which counts when ours is not set.
AWS_VARIABLES: Final = {
    "s3_endpoint": "AWS_ENDPOINT_URL_S3",
    "sqs_endpoint": "AWS_ENDPOINT_URL_SQS",
    "sns_endpoint": "AWS_ENDPOINT_URL_SNS",
    "eventbridge_endpoint": "AWS_ENDPOINT_URL_EVENTBRIDGE",
}


class DispatcherSettings(Shared, frozen=True, kw_only=True):
    """Everything the dispatcher can be told."""

    host: Annotated[str, Setting("EVERWARM_HOST", text, "address to listen on")] = "127.0.0.1"
    port: Annotated[int, Setting("EVERWARM_PORT", integer(1, 65535), "port to listen on")] = 4566
    database_url: Annotated[
        str,
        Setting(
            "EVERWARM_DATABASE_URL",
            url("sqlite", "postgresql", "postgresql+psycopg"),
            "database of the catalog and the ledger; unset: SQLite in the data directory",
            secret=True,
        ),
    ] = ""
    advertise_url: Annotated[
        str,
        Setting(
            "EVERWARM_ADVERTISE_URL",
            url("http", "https"),
            "this server's URL as workers reach it; unset: host and port",
        ),
    ] = ""
    sync_queue_wait_s: Annotated[
        float,
        Setting("EVERWARM_SYNC_QUEUE_WAIT_S", number(0.1, 900), "a call that no worker began within it gets 429", "s"),
    ] = 10.0
    sync_reserve: Annotated[
        int | None,
        Setting(
            "EVERWARM_SYNC_RESERVE",
            integer(0, 100_000),
            "slots per mode that events leave to synchronous calls; unset: a quarter, at least 1",
        ),
    ] = None
    retry_base_s: Annotated[
        float,
        Setting(
            "LAMBDA_RETRY_BASE_DELAY",
            number(0, 86_400),
            "before the first retry of an asynchronous invocation; n times it before the n-th",
            "s",
        ),
    ] = 60.0
    time_scale: Annotated[
        float,
        Setting(
            "EVERWARM_TIME_SCALE",
            number(0.001, 1_000_000),
            "everything that asynchronous invocations wait for is shorter by this: 60 makes minutes seconds",
        ),
    ] = 1.0
    result_max_bytes: Annotated[
        int, Setting("EVERWARM_LEDGER_RESULT_MAX", size, "how much of an event's result the ledger keeps", "bytes")
    ] = 64 << 10
    ledger_retention: Annotated[
        Retention,
        Setting(
            "EVERWARM_LEDGER_RETENTION",
            parse_retention,
            "what the ledger keeps of ended events: age, number, size, each if given; failed ones are deleted last",
        ),
    ] = Retention(age_s=7 * 86_400, events=1_000_000, bytes=10 << 30)
    credentials: Annotated[
        tuple[Credential, ...],
        Setting(
            "EVERWARM_CREDENTIALS",
            parse_credentials,
            "key:secret:account, separated by commas, or @FILE; turns signature verification on",
            secret=True,
        ),
    ] = ()
    insecure: Annotated[
        bool, Setting("EVERWARM_INSECURE", boolean, "1: listen on an address off loopback without credentials")
    ] = False
    allowed_hosts: Annotated[
        tuple[str, ...],
        Setting("EVERWARM_ALLOWED_HOSTS", names, "further values of the Host header, separated by commas"),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...], Setting("EVERWARM_ALLOWED_ORIGINS", names, "web origins that may call, separated by commas")
    ] = ()
    hot_reload_roots: Annotated[
        tuple[Path, ...] | None,
        Setting(
            "EVERWARM_HOT_RELOAD_ROOTS",
            folders,
            "hot reload only below these, separated by colons; default: the home directory, nothing for root or off loopback",
        ),
    ] = None
    s3_endpoint: Annotated[
        str, Setting("EVERWARM_S3_ENDPOINT", url("http", "https"), "S3 that S3Bucket and S3Key are fetched from")
    ] = ""
    s3_access_key: Annotated[str, Setting("EVERWARM_S3_ACCESS_KEY", text, "access key for S3")] = "test"
    s3_secret_key: Annotated[str, Setting("EVERWARM_S3_SECRET_KEY", text, "secret key for S3", secret=True)] = "test"
    s3_region: Annotated[str, Setting("EVERWARM_S3_REGION", text, "region of S3")] = "us-east-1"
    sqs_endpoint: Annotated[
        str, Setting("EVERWARM_SQS_ENDPOINT", url("http", "https"), "SQS of destinations and dead-letter queues")
    ] = ""
    sns_endpoint: Annotated[
        str, Setting("EVERWARM_SNS_ENDPOINT", url("http", "https"), "SNS of destinations and dead-letter topics")
    ] = ""
    eventbridge_endpoint: Annotated[
        str, Setting("EVERWARM_EVENTBRIDGE_ENDPOINT", url("http", "https"), "EventBridge of destinations")
    ] = ""
    aws_access_key: Annotated[
        str, Setting("EVERWARM_AWS_ACCESS_KEY", text, "access key for the endpoints of SQS, SNS and EventBridge")
    ] = "test"
    aws_secret_key: Annotated[
        str,
        Setting(
            "EVERWARM_AWS_SECRET_KEY", text, "secret key for the endpoints of SQS, SNS and EventBridge", secret=True
        ),
    ] = "test"
    real_aws: Annotated[
        bool, Setting("EVERWARM_REAL_AWS", boolean, "1: requests to real AWS are allowed, with the usual profiles")
    ] = False
    concurrent_executions: Annotated[
        int,
        Setting("LAMBDA_LIMITS_CONCURRENT_EXECUTIONS", integer(1, 1_000_000), "concurrent invocations of an account"),
    ] = 1000
    minimum_unreserved: Annotated[
        int,
        Setting(
            "LAMBDA_LIMITS_MINIMUM_UNRESERVED_CONCURRENCY",
            integer(0, 1_000_000),
            "concurrency of an account that can't be reserved",
        ),
    ] = 100
    code_zipped_bytes: Annotated[
        int, Setting("LAMBDA_LIMITS_CODE_SIZE_ZIPPED", integer(1, 1 << 34), "largest zip", "bytes")
    ] = 52_428_800
    code_unzipped_bytes: Annotated[
        int, Setting("LAMBDA_LIMITS_CODE_SIZE_UNZIPPED", integer(1, 1 << 36), "largest unpacked zip", "bytes")
    ] = 262_144_000
    environment_bytes: Annotated[
        int,
        Setting(
            "LAMBDA_LIMITS_MAX_FUNCTION_ENVVAR_SIZE_BYTES",
            integer(1, 1 << 20),
            "a function's variables together",
            "bytes",
        ),
    ] = 4096
    code_extract_s: Annotated[
        float,
        Setting("LAMBDA_CODE_EXTRACT_TIME", number(0.1, 900), "how long unpacking may take at create and update", "s"),
    ] = 25.0
    synchronous_create: Annotated[
        bool, Setting("LAMBDA_SYNCHRONOUS_CREATE", boolean, "1: create returns only when the function is Active")
    ] = False
    logs_max_bytes: Annotated[
        int, Setting("EVERWARM_LOGS_MAX", size, "disk space for the functions' logs, all together", "bytes")
    ] = 1 << 30
    image_worker: Annotated[
        bool,
        Setting(
            "EVERWARM_IMAGE_WORKER",
            boolean,
            "mode local: `everwarm up` also starts a worker for container images where a container engine answers",
        ),
    ] = True
    metrics_token: Annotated[
        str, Setting("EVERWARM_METRICS_TOKEN", text, "bearer token that /_everwarm/metrics asks for", secret=True)
    ] = ""

    @property
    def endpoint(self) -> str:
        """The URL at which workers and people reach this server."""
        if self.advertise_url:
            return self.advertise_url
        # An unspecified address can't be connected to everywhere.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is ``localhost`` or an address of the loopback networks; a name is never looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read(environ: Environ) -> DispatcherSettings:
    """The settings with the defaults that depend on the user filled in; raises ``SettingError``."""
    found = shared.read(DispatcherSettings, environ)
    if not (found.loopback or found.credentials or found.insecure):
        why = "other machines could run code here: set EVERWARM_CREDENTIALS=key:secret:account, or say --insecure"
        raise SettingError("EVERWARM_HOST", found.host, why)
    home = (Path.home(),) if os.geteuid() != 0 and found.loopback else ()
    return msgspec.structs.replace(
        found,
        database_url=found.database_url or f"sqlite:///{found.data_dir / 'everwarm.db'}",
        hot_reload_roots=home if found.hot_reload_roots is None else found.hot_reload_roots,
        **_aws_endpoints(found, environ),
    )


def _aws_endpoints(found: DispatcherSettings, environ: Environ) -> dict[str, str]:
    """Endpoints by the names of AWS's tools. With real AWS they are left to botocore, which has credentials for them."""
    return {
        field: parse_variable(name, environ[name], url("http", "https"))
        for field, name in AWS_VARIABLES.items()
        if environ.get(name) and not getattr(found, field) and not found.real_aws
    }
