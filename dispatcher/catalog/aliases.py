"""Aliases: a name for a version, and perhaps a part of the calls for a second one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from dispatcher.catalog import event_configs
from dispatcher.catalog.functions import check_revision
from dispatcher.catalog.lookups import find_alias, get_alias, get_function, get_version
from dispatcher.catalog.paging import Page, page_of
from dispatcher.catalog.rows import (
    Alias,
    Function,
    FunctionKey,
    alias_from,
    is_version,
    new_revision,
    version_name,
    version_number,
)
from dispatcher.sql.tables import aliases, statements
from dispatcher.wire.errors import AwsError

#: The one version that gets a part of the calls, if any → that part, 0 to 1.
Weights = Mapping[str, float]
_LATEST: Final = 0


@dataclass(frozen=True, slots=True)
class AliasChange:
    """What UpdateAlias sets; None stays as it is, and empty weights take the second version away."""

    version: str | None = None
    description: str | None = None
    weights: Weights | None = None


def create(
    connection: Connection, key: FunctionKey, name: str, version: str, description: str, weights: Weights
) -> Alias:
    """A new alias of a version that exists."""
    function = get_function(connection, key, lock=True, qualifier=version)
    number = get_version(connection, function, version).number
    if find_alias(connection, function, name) is not None:
        raise AwsError("ResourceConflictException", f"Alias already exists: {key.arn(name)}")
    additional, weight = _routing(connection, function, number, weights)
    connection.execute(
        insert(aliases).values(
            function_id=function.id,
            name=name,
            version=number,
            additional_version=additional,
            additional_weight=weight,
            description=description,
            revision_id=new_revision(),
        )
    )
    return get_alias(connection, function, name)


def _routing(
    connection: Connection, function: Function, number: int, weights: Weights
) -> tuple[int | None, float | None]:
    if len(weights) > 1:
        raise _invalid("Number of items in AdditionalVersionWeights cannot be greater than 1")
    for name, weight in weights.items():
        if name == version_name(number):
            raise _invalid(
                f"Invalid function version {name}. Function version {name} is already included in routing configuration."
            )
        if number == _LATEST or not is_version(name) or version_number(name) == _LATEST:
            raise _invalid("$LATEST is not supported for an alias pointing to more than 1 version")
        return get_version(connection, function, name).number, weight
    return None, None


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterValueException", message)


def read(connection: Connection, key: FunctionKey, name: str) -> Alias:
    """One alias."""
    return get_alias(connection, get_function(connection, key), name)


def change(connection: Connection, key: FunctionKey, name: str, revision_id: str | None, wanted: AliasChange) -> Alias:
    """Set what ``wanted`` names; the RevisionId is new even when nothing changes."""
    function = get_function(connection, key, lock=True)
    alias = find_alias(connection, function, name)
    if alias is None:
        raise AwsError("ResourceNotFoundException", f"Alias not found: {key.arn(name)}")
    check_revision(revision_id, alias.revision_id)
    number = alias.version if wanted.version is None else get_version(connection, function, wanted.version).number
    weights = _weights(alias) if wanted.weights is None else wanted.weights
    additional, weight = _routing(connection, function, number, weights)
    connection.execute(
        update(aliases)
        .where(aliases.c.function_id == function.id, aliases.c.name == name)
        .values(
            version=number,
            additional_version=additional,
            additional_weight=weight,
            description=alias.description if wanted.description is None else wanted.description,
            revision_id=new_revision(),
        )
    )
    return get_alias(connection, function, name)


def _weights(alias: Alias) -> Weights:
    if alias.additional_version is None:
        return {}
    return {version_name(alias.additional_version): alias.additional_weight or 0.0}


def bump_revision(connection: Connection, function: Function, name: str) -> None:
    """A new RevisionId for an alias whose policy changed."""
    connection.execute(
        update(aliases)
        .where(aliases.c.function_id == function.id, aliases.c.name == name)
        .values(revision_id=new_revision())
    )


def remove(connection: Connection, key: FunctionKey, name: str) -> None:
    """Delete an alias with its policy and event configuration; one that is already gone is fine, as on AWS."""
    function = get_function(connection, key, lock=True)
    connection.execute(delete(aliases).where(aliases.c.function_id == function.id, aliases.c.name == name))
    connection.execute(
        delete(statements).where(statements.c.function_id == function.id, statements.c.qualifier == name)
    )
    event_configs.drop(connection, function, name)


def list_aliases(
    connection: Connection, key: FunctionKey, version: str | None, marker: str | None, limit: int | None
) -> Page[Alias]:
    """The aliases by name, all or those whose main version is ``version``."""
    function = get_function(connection, key)
    query = select(aliases).where(aliases.c.function_id == function.id)
    if version is not None:
        query = query.where(aliases.c.version == (version_number(version) if is_version(version) else -1))
    return page_of(connection, query, [aliases.c.name], marker, limit, lambda row: alias_from(row, key))
