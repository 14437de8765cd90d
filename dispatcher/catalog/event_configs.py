"""FunctionEventInvokeConfig: how asynchronous invocations of one qualifier are retried, and where their results go.

The wording of errors is recorded from AWS. Every qualifier (``$LATEST``, a version, an alias) has its own, or none.
"""

import re
import time
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Row, delete, insert, select

from dispatcher.catalog.lookups import find_alias, find_function, find_version
from dispatcher.catalog.paging import Page, page_of
from dispatcher.catalog.rows import Function, FunctionKey, is_version, version_name, version_number
from dispatcher.sql.tables import event_invoke_configs
from dispatcher.wire.arn import LATEST
from dispatcher.wire.errors import AwsError

T = TypeVar("T")
_ARN: Final = re.compile(r"arn:aws[a-zA-Z0-9-]{0,32}:([a-z0-9-]+):([a-z0-9-]{0,32}):([0-9]{12})?:(.+)")
#: The resource of an ARN, by the services that take records. FIFO queues and topics don't match, because AWS refuses them.
_RESOURCES: Final = {
    "lambda": re.compile(r"function:[a-zA-Z0-9-_.]+(:(\$LATEST|[a-zA-Z0-9-_]+))?"),
    "sqs": re.compile(r"[a-zA-Z0-9-_]{1,80}"),
    "sns": re.compile(r"[a-zA-Z0-9-_]{1,256}"),
    "events": re.compile(r"event-bus/[a-zA-Z0-9-_./]+"),
    "s3": re.compile(r"[a-z0-9][a-z0-9.-]+[a-z0-9]"),
}


@dataclass(frozen=True, slots=True)
class EventInvokeConfig:
    """A row of ``event_invoke_configs``."""

    key: FunctionKey
    qualifier: str
    maximum_age_s: int | None
    maximum_retries: int | None
    on_success: str
    """ARN; empty when there is none, as the next."""
    on_failure: str
    last_modified: int
    """Milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class EventConfigChange:
    """What a request sets; None stands for what it left out, and an empty ARN takes the destination away."""

    maximum_age_s: int | None = None
    maximum_retries: int | None = None
    on_success: str | None = None
    on_failure: str | None = None


def put(
    connection: Connection, key: FunctionKey, qualifier: str | None, wanted: EventConfigChange
) -> EventInvokeConfig:
    """Replace the whole configuration; what ``wanted`` leaves out is gone."""
    function, name = _existing(connection, key, qualifier)
    return _write(connection, function, EventInvokeConfig(key, name, None, None, "", "", 0), wanted)


def update(
    connection: Connection, key: FunctionKey, qualifier: str | None, wanted: EventConfigChange
) -> EventInvokeConfig:
    """Change what ``wanted`` names in a configuration that exists."""
    function, name = _existing(connection, key, qualifier)
    before = find_config(connection, function, name)
    if before is None:
        raise _missing(key, name)
    return _write(connection, function, before, wanted)


def read(connection: Connection, key: FunctionKey, qualifier: str | None) -> EventInvokeConfig:
    """The configuration of one qualifier; a function that does not exist has none either."""
    name = _canonical(qualifier)
    function = find_function(connection, key)
    found = find_config(connection, function, name) if function is not None else None
    if found is None:
        raise _missing(key, name)
    return found


def remove(connection: Connection, key: FunctionKey, qualifier: str | None) -> None:
    """Delete the configuration of one qualifier, which then has AWS's defaults."""
    name = _canonical(qualifier)
    function = find_function(connection, key, lock=True)
    if function is None or find_config(connection, function, name) is None:
        raise _missing(key, name)
    drop(connection, function, name)


def list_configs(
    connection: Connection, key: FunctionKey, marker: str | None, limit: int | None
) -> Page[EventInvokeConfig]:
    """The function's configurations by qualifier."""
    function = find_function(connection, key)
    if function is None:
        raise _no_function()
    table = event_invoke_configs
    query = select(table).where(table.c.function_id == function.id)
    return page_of(connection, query, [table.c.qualifier], marker, limit, lambda row: _from_row(row, key))


def find_config(connection: Connection, function: Function, qualifier: str | None) -> EventInvokeConfig | None:
    """The configuration of exactly this qualifier, or None; no qualifier is ``$LATEST``."""
    table = event_invoke_configs
    row = connection.execute(
        select(table).where(table.c.function_id == function.id, table.c.qualifier == _canonical(qualifier))
    ).one_or_none()
    return _from_row(row, function.key) if row is not None else None


def drop(connection: Connection, function: Function, qualifier: str) -> None:
    """Delete what a qualifier has, if anything."""
    table = event_invoke_configs
    connection.execute(delete(table).where(table.c.function_id == function.id, table.c.qualifier == qualifier))


def service_of(arn: str) -> str:
    """``lambda``, ``sqs``, ``sns``, ``events`` or ``s3``; empty for what is no whole ARN of a resource that takes records."""
    found = _ARN.fullmatch(arn)
    if found is None:
        return ""
    service, region, account, resource = found.groups()
    pattern = _RESOURCES.get(service)
    if pattern is None or pattern.fullmatch(resource) is None:
        return ""
    # A bucket's name is the same in all regions and accounts, so its ARN has neither.
    whole = not (region or account) if service == "s3" else bool(region and account)
    return service if whole else ""


def _write(
    connection: Connection, function: Function, before: EventInvokeConfig, wanted: EventConfigChange
) -> EventInvokeConfig:
    _check_services(wanted)
    for arn in filter(None, (wanted.on_success, wanted.on_failure)):
        _check_destination(connection, function.key, arn)
    after = replace(
        before,
        maximum_age_s=_or(wanted.maximum_age_s, before.maximum_age_s),
        maximum_retries=_or(wanted.maximum_retries, before.maximum_retries),
        on_success=_or(wanted.on_success, before.on_success),
        on_failure=_or(wanted.on_failure, before.on_failure),
        last_modified=time.time_ns() // 1_000_000,
    )
    drop(connection, function, after.qualifier)
    connection.execute(
        insert(event_invoke_configs).values(
            function_id=function.id,
            qualifier=after.qualifier,
            maximum_age_s=after.maximum_age_s,
            maximum_retries=after.maximum_retries,
            on_success=after.on_success,
            on_failure=after.on_failure,
            last_modified=after.last_modified,
        )
    )
    return after


def _or(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value


def _check_services(wanted: EventConfigChange) -> None:
    """Refuse services that never take such records, and buckets for successes, with AWS's one message for both destinations."""
    refused = (wanted.on_success and _named_service(wanted.on_success) not in _RESOURCES.keys() - {"s3"}) or (
        wanted.on_failure and _named_service(wanted.on_failure) not in _RESOURCES
    )
    if not refused:
        return
    success = f"OnSuccess(destination={wanted.on_success})" if wanted.on_success else "null"
    failure = f"OnFailure(destination={wanted.on_failure})" if wanted.on_failure else "null"
    raise _invalid(
        f"The provided destination config DestinationConfig(onSuccess={success}, onFailure={failure}) is invalid."
    )


def _named_service(arn: str) -> str:
    """What stands in the service's place, whatever the rest is (``kafka://…`` is a destination elsewhere in the API)."""
    return arn.split(":")[2] if arn.startswith("arn:") else ""


def _check_destination(connection: Connection, key: FunctionKey, arn: str) -> None:
    service = service_of(arn)
    if service == "lambda":
        _partition, _service, region, account, _kind, name, *qualifier = arn.split(":")[1:]
        target = FunctionKey(account, region, name)
        if target == key:
            raise _invalid("You can't specify the function as a destination for itself.")
        # As with Invoke, no policy opens a function to other accounts; and nobody learns which ones these have.
        if account != key.account or not _is_there(connection, target, _canonical("".join(qualifier))):
            service = ""
    if not service:
        raise _invalid(f"The destination ARN {arn} is invalid.")


def _existing(connection: Connection, key: FunctionKey, qualifier: str | None) -> tuple[Function, str]:
    """The function, locked, and the qualifier's one name; an error when either does not exist."""
    function = find_function(connection, key, lock=True)
    name = _canonical(qualifier)
    if function is not None and _has(connection, function, name):
        return function, name
    raise _no_function()


def _is_there(connection: Connection, key: FunctionKey, name: str) -> bool:
    function = find_function(connection, key)
    return function is not None and _has(connection, function, name)


def _has(connection: Connection, function: Function, name: str) -> bool:
    """Whether the function has this version or alias."""
    if is_version(name):
        return find_version(connection, function, version_number(name)) is not None
    return find_alias(connection, function, name) is not None


def _canonical(qualifier: str | None) -> str:
    """``$LATEST`` when there is none, and ``7`` for ``007``, which names the same version."""
    name = qualifier or LATEST
    return version_name(version_number(name)) if is_version(name) else name


def _from_row(row: Row[Any], key: FunctionKey) -> EventInvokeConfig:
    return EventInvokeConfig(
        key=key,
        qualifier=row.qualifier,
        maximum_age_s=row.maximum_age_s,
        maximum_retries=row.maximum_retries,
        on_success=row.on_success,
        on_failure=row.on_failure,
        last_modified=row.last_modified,
    )


def _no_function() -> AwsError:
    return AwsError("ResourceNotFoundException", "The function doesn't exist.")


def _missing(key: FunctionKey, qualifier: str) -> AwsError:
    return AwsError("ResourceNotFoundException", f"The function {key.arn(qualifier)} doesn't have an EventInvokeConfig")


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterValueException", message)
