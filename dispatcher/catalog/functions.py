"""Creating, changing, listing and deleting functions and their versions: each Python function is one transaction.

States as AWS has them. A new function is ``Pending`` and becomes ``Active``; a changed ``$LATEST`` has the update status
``InProgress``, which becomes ``Successful``; either may end ``Failed``. Until then further changes are refused. Every
transition gives ``$LATEST`` a new RevisionId, as does publishing from it.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from dispatcher.catalog import event_configs
from dispatcher.catalog import tags as tag_store
from dispatcher.catalog.lookups import (
    find_function,
    find_version,
    get_function,
    get_latest,
    get_qualified,
    get_version,
)
from dispatcher.catalog.paging import Page, page_of
from dispatcher.catalog.rows import (
    CREATING,
    Code,
    Function,
    FunctionKey,
    Version,
    encode,
    function_from,
    is_version,
    new_revision,
    timestamp,
    version_from,
    version_number,
)
from dispatcher.sql.tables import aliases, functions, statements, versions
from dispatcher.wire.arn import LATEST
from dispatcher.wire.errors import AwsError

Config = dict[str, Any]

#: A version that waits to become ready.
_UNFINISHED: Final = or_(versions.c.state == "Pending", versions.c.update_status == "InProgress")

REVISION_MISMATCH: Final = (
    "The Revision Id provided does not match the latest Revision Id. "
    "Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
)


@dataclass(frozen=True, slots=True)
class Draft:
    """A function to be created."""

    config: Config
    code: Code
    tags: Mapping[str, str]
    publish: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a function can't be made ready: AWS's reason code and a sentence."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The version can be called. ``image_id`` is the container engine's id of its image, empty for a zip."""

    image_id: str = ""


def check_revision(given: str | None, current: str) -> None:
    """``PreconditionFailedException`` unless the RevisionId is left out or current."""
    if given and given != current:
        raise AwsError("PreconditionFailedException", REVISION_MISMATCH)


def create(connection: Connection, key: FunctionKey, draft: Draft) -> Version:
    """Insert a function, Pending, and with ``publish`` its version 1, which is then what is returned."""
    if find_function(connection, key) is not None:
        raise _exists(key)
    try:
        with connection.begin_nested():
            function_id = connection.execute(
                insert(functions)
                .values(account=key.account, region=key.region, name=key.name, next_version=1)
                .returning(functions.c.id)
            ).scalar_one()
    except IntegrityError:
        raise _exists(key) from None
    function = Function(id=function_id, key=key, next_version=1, reserved_concurrency=None)
    _insert_version(connection, function, 0, draft.config, draft.code, state="Pending")
    tag_store.put(connection, function, draft.tags)
    latest = get_latest(connection, function)
    return publish_from(connection, function, latest) if draft.publish else latest


def _exists(key: FunctionKey) -> AwsError:
    return AwsError("ResourceConflictException", f"Function already exist: {key.name}")


def fingerprint(config: Config, code: Code) -> str:
    """Equal for equal configuration and code, whatever else differs; publishing twice compares it."""
    return hashlib.sha256(encode([config, code.sha256, code.hot_reload_path, code.image_uri]).encode()).hexdigest()


def _insert_version(
    connection: Connection,
    function: Function,
    number: int,
    config: Config,
    code: Code,
    *,
    state: str,
    mark: str | None = None,
) -> None:
    pending = state == "Pending"
    connection.execute(
        insert(versions).values(
            function_id=function.id,
            number=number,
            config=encode(config),
            fingerprint=mark or fingerprint(config, code),
            **_code_columns(code),
            revision_id=new_revision(),
            last_modified=timestamp(),
            state=state,
            state_reason_code=CREATING[0] if pending else None,
            state_reason=CREATING[1] if pending else None,
            update_status=None if pending else "Successful",
        )
    )


def _code_columns(code: Code) -> dict[str, Any]:
    return {
        "code_sha256": code.sha256,
        "code_size": code.size,
        "hot_reload_path": code.hot_reload_path,
        "image_uri": code.image_uri,
    }


def _touch(connection: Connection, function: Function, number: int, **columns: Any) -> None:
    """Change a version's row; it gets a new RevisionId."""
    connection.execute(
        update(versions)
        .where(versions.c.function_id == function.id, versions.c.number == number)
        .values(revision_id=new_revision(), **columns)
    )


def bump_revision(connection: Connection, function: Function, number: int) -> None:
    """A new RevisionId for a version whose policy or published copy changed."""
    _touch(connection, function, number)


def check_idle(version: Version) -> None:
    """``ResourceConflictException`` while the function is being created or changed."""
    if version.state == "Pending":
        raise AwsError(
            "ResourceConflictException",
            "The operation cannot be performed at this time. "
            f"The function is currently in the following state: {version.state}",
        )
    if version.update_status == "InProgress":
        raise AwsError(
            "ResourceConflictException",
            f"The operation cannot be performed at this time. An update is in progress for resource: {version.key.arn()}",
        )


def get_whole(
    connection: Connection, key: FunctionKey, qualifier: str | None
) -> tuple[Version, dict[str, str], int | None]:
    """The version that a qualifier names, the function's tags, and its reserved concurrency."""
    function, version = get_qualified(connection, key, qualifier)
    return version, tag_store.tags_of(connection, function), function.reserved_concurrency


# --- changes of $LATEST ---


def update_configuration(
    connection: Connection, key: FunctionKey, revision_id: str | None, change: Callable[[Version], Config]
) -> Version:
    """``change`` makes the new configuration from ``$LATEST``; it may raise what the request deserves."""
    function = get_function(connection, key, lock=True)
    latest = get_latest(connection, function)
    check_revision(revision_id, latest.revision_id)
    config = change(latest)
    check_idle(latest)
    return _replace_latest(connection, function, config, latest.code)


def update_code(
    connection: Connection,
    key: FunctionKey,
    revision_id: str | None,
    code: Code,
    architectures: list[str] | None,
    *,
    publish: bool,
    dry_run: bool,
) -> Version:
    """New code for ``$LATEST``; with ``publish`` the version published from it is returned, with ``dry_run`` what would be."""
    function = get_function(connection, key, lock=True)
    latest = get_latest(connection, function)
    check_revision(revision_id, latest.revision_id)
    if dry_run:
        return replace(latest, code=code)
    check_idle(latest)
    config = {**latest.config, "Architectures": architectures or latest.config["Architectures"]}
    changed = _replace_latest(connection, function, config, code)
    return publish_from(connection, function, changed) if publish else changed


def _replace_latest(connection: Connection, function: Function, config: Config, code: Code) -> Version:
    _touch(
        connection,
        function,
        0,
        config=encode(config),
        fingerprint=fingerprint(config, code),
        **_code_columns(code),
        last_modified=timestamp(),
        update_status="InProgress",
        update_reason_code=CREATING[0],
        update_reason=CREATING[1],
    )
    return get_latest(connection, function)


# --- versions ---


def publish(
    connection: Connection, key: FunctionKey, code_sha256: str | None, revision_id: str | None, description: str | None
) -> Version:
    """A version from ``$LATEST``, or the last one when nothing changed since."""
    function = get_function(connection, key, lock=True)
    latest = get_latest(connection, function)
    check_revision(revision_id, latest.revision_id)
    check_idle(latest)
    current = latest.code.api_sha256
    if code_sha256 and code_sha256 != current:
        raise AwsError(
            "InvalidParameterValueException",
            f"CodeSHA256 ({code_sha256}) is different from current CodeSHA256 in $LATEST ({current}). "
            "Please try again with the CodeSHA256 in $LATEST.",
        )
    return publish_from(connection, function, latest, description)


def publish_from(
    connection: Connection, function: Function, latest: Version, description: str | None = None
) -> Version:
    """Freeze ``$LATEST`` as the next version, unless the last version is the same."""
    last = find_version(connection, function, function.next_version - 1) if function.next_version > 1 else None
    if last is not None and last.fingerprint == latest.fingerprint:
        return last
    number = function.next_version
    config = _published(latest.config, description)
    ready = latest.state == "Active" and latest.update_status != "InProgress"
    state = "Active" if ready else "Pending"
    _insert_version(connection, function, number, config, latest.code, state=state, mark=latest.fingerprint)
    connection.execute(update(functions).where(functions.c.id == function.id).values(next_version=number + 1))
    bump_revision(connection, function, 0)
    return get_version(connection, function, str(number))


def _published(config: Config, description: str | None) -> Config:
    config = dict(config)
    if description is not None:
        config["Description"] = description
    if config.get("SnapStart", {}).get("ApplyOn") == "PublishedVersions":
        config["SnapStart"] = {**config["SnapStart"], "OptimizationStatus": "On"}
    return config


def list_versions(connection: Connection, key: FunctionKey, marker: str | None, limit: int | None) -> Page[Version]:
    """``$LATEST``, then the published ones in their order."""
    function = get_function(connection, key)
    query = select(versions).where(versions.c.function_id == function.id)
    return page_of(connection, query, [versions.c.number], marker, limit, lambda row: version_from(row, key))


def list_functions(
    connection: Connection, account: str, region: str, marker: str | None, limit: int | None, *, all_versions: bool
) -> Page[Version]:
    """``$LATEST`` of every function by name, or all versions of all of them."""
    query = (
        select(versions, functions.c.name)
        .join(functions, functions.c.id == versions.c.function_id)
        .where(functions.c.account == account, functions.c.region == region)
    )
    if not all_versions:
        query = query.where(versions.c.number == 0)
    return page_of(
        connection,
        query,
        [functions.c.name, versions.c.number],
        marker,
        limit,
        lambda row: version_from(row, FunctionKey(account, region, row.name)),
    )


# --- deleting ---


def delete_function(connection: Connection, key: FunctionKey) -> None:
    """The function with its versions, aliases, policies, event configurations and tags."""
    function = get_function(connection, key, lock=True)
    connection.execute(delete(functions).where(functions.c.id == function.id))


def delete_version(connection: Connection, key: FunctionKey, qualifier: str) -> None:
    """One published version that no alias points to. A version that is already gone is fine, as on AWS."""
    if qualifier == LATEST:
        raise AwsError(
            "InvalidParameterValueException", "$LATEST version cannot be deleted without deleting the function."
        )
    function = get_function(connection, key, lock=True, qualifier=qualifier)
    if not is_version(qualifier):
        raise AwsError(
            "InvalidParameterValueException",
            "Deletion of aliases is not currently supported.",
        )
    version = find_version(connection, function, version_number(qualifier))
    if version is None:
        return
    _check_unreferenced(connection, function, version)
    number = version.number
    connection.execute(delete(versions).where(versions.c.function_id == function.id, versions.c.number == number))
    connection.execute(
        delete(statements).where(statements.c.function_id == function.id, statements.c.qualifier == qualifier)
    )
    event_configs.drop(connection, function, version.name)


def _check_unreferenced(connection: Connection, function: Function, version: Version) -> None:
    names = connection.scalars(
        select(aliases.c.name)
        .where(
            aliases.c.function_id == function.id,
            or_(aliases.c.version == version.number, aliases.c.additional_version == version.number),
        )
        .order_by(aliases.c.name)
    ).all()
    if names:
        raise AwsError(
            "ResourceConflictException",
            f"Unable to delete version because the following aliases reference it: [{', '.join(names)}]",
        )


# --- becoming ready ---


def unfinished(connection: Connection) -> list[FunctionKey]:
    """The functions that have a version that is Pending or InProgress."""
    rows = connection.execute(
        select(functions)
        .where(functions.c.id.in_(select(versions.c.function_id).where(_UNFINISHED)))
        .order_by(functions.c.id)
    )
    return [function_from(row).key for row in rows]


def pending_versions(connection: Connection, key: FunctionKey) -> list[Version]:
    """The function's versions that wait to become ready; none when the function is gone.

    ``$LATEST`` is the last, so that whoever waits for it finds all of them ready.
    """
    function = find_function(connection, key)
    if function is None:
        return []
    rows = connection.execute(
        select(versions)
        .where(
            versions.c.function_id == function.id,
            _UNFINISHED,
        )
        .order_by(versions.c.number.desc())
    )
    return [version_from(row, key) for row in rows]


def finish_activation(connection: Connection, key: FunctionKey, version: Version, end: Ready | Failure) -> bool:
    """End Pending or InProgress; answers False when another dispatcher did, or ``version`` changed or went since it was read."""
    failure = end if isinstance(end, Failure) else None
    columns: dict[str, Any] = {"update_status": "Failed" if failure else "Successful"}
    reason = (failure.code, failure.reason) if failure else (None, None)
    columns["update_reason_code"], columns["update_reason"] = reason
    if version.state == "Pending":
        columns["state"] = "Failed" if failure else "Active"
        columns["state_reason_code"], columns["state_reason"] = reason
    if isinstance(end, Ready) and version.code.image_uri and end.image_id:
        # An image built anew under its name is other code.
        columns["code_sha256"] = end.image_id.removeprefix("sha256:")
        columns["fingerprint"] = hashlib.sha256(f"{version.fingerprint}\n{end.image_id}".encode()).hexdigest()
    function = find_function(connection, key)
    if function is None or function.id != version.function_id:
        return False
    changed = connection.execute(
        update(versions)
        .where(
            versions.c.function_id == function.id,
            versions.c.number == version.number,
            versions.c.fingerprint == version.fingerprint,
            _UNFINISHED,
        )
        .values(revision_id=new_revision(), **columns)
        .returning(versions.c.number)
    ).all()
    return bool(changed)


# --- figures ---


def code_in_use(connection: Connection) -> set[str]:
    """Hex SHA-256 of every zip that some version needs."""
    return set(connection.execute(select(versions.c.code_sha256).distinct()).scalars())


def usage(connection: Connection, account: str, region: str) -> tuple[int, int]:
    """Number of functions, and bytes of all their versions' zips."""
    here = (functions.c.account == account, functions.c.region == region)
    count = connection.execute(select(func.count()).select_from(functions).where(*here)).scalar_one()
    size = connection.execute(
        select(func.coalesce(func.sum(versions.c.code_size), 0))
        .select_from(versions)
        .join(functions, functions.c.id == versions.c.function_id)
        .where(*here)
    ).scalar_one()
    return int(count), int(size)
