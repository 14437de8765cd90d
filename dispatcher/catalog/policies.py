"""Resource policies: one for the function itself, and one for each version and alias that has statements.

A policy has no RevisionId of its own: it is that of ``$LATEST``, the version or the alias, and changes with it.
"""

from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, select

from dispatcher.catalog import aliases as alias_store
from dispatcher.catalog import functions as function_store
from dispatcher.catalog.lookups import find_function, get_alias, get_function, get_version
from dispatcher.catalog.rows import Function, FunctionKey, decode, encode, is_version, version_number
from dispatcher.sql.tables import statements
from dispatcher.wire.arn import LATEST
from dispatcher.wire.errors import AwsError

#: AWS's quota for a function's resource policy.
MAX_POLICY_BYTES: Final = 20_480

Statement = dict[str, Any]


def document(found: list[Statement]) -> dict[str, Any]:
    """The policy as a whole."""
    return {"Version": "2012-10-17", "Id": "default", "Statement": found}


def add(
    connection: Connection, key: FunctionKey, qualifier: str | None, revision_id: str | None, statement: Statement
) -> None:
    """Append a statement whose id is new."""
    function = get_function(connection, key, lock=True)
    _check_revision(revision_id, _revision(connection, function, qualifier))
    before = _statements(connection, function, qualifier)
    sid = statement["Sid"]
    if any(other["Sid"] == sid for other in before):
        raise AwsError(
            "ResourceConflictException",
            f"The statement id ({sid}) provided already exists. Please provide a new statement id, "
            "or remove the existing statement.",
        )
    size = len(encode(document([*before, statement])).encode())
    if size > MAX_POLICY_BYTES:
        raise AwsError(
            "PolicyLengthExceededException",
            f"The final policy size ({size}) is bigger than the limit ({MAX_POLICY_BYTES}).",
        )
    last = connection.execute(
        select(func.coalesce(func.max(statements.c.position), 0)).where(statements.c.function_id == function.id)
    ).scalar_one()
    connection.execute(
        insert(statements).values(
            function_id=function.id,
            qualifier=qualifier or "",
            sid=sid,
            position=last + 1,
            statement=encode(statement),
        )
    )
    _bump(connection, function, qualifier)


def remove(connection: Connection, key: FunctionKey, qualifier: str | None, revision_id: str | None, sid: str) -> None:
    """Take a statement away."""
    function = find_function(connection, key, lock=True)
    if function is None:
        raise AwsError("ResourceNotFoundException", f"No policy found for: {key.arn()}")
    current = _revision(connection, function, qualifier)
    found = _statements(connection, function, qualifier)
    if not found:
        raise AwsError("ResourceNotFoundException", "No policy is associated with the given resource.")
    if all(statement["Sid"] != sid for statement in found):
        raise AwsError("ResourceNotFoundException", f"Statement {sid} is not found in resource policy.")
    _check_revision(revision_id, current)
    connection.execute(
        delete(statements).where(
            statements.c.function_id == function.id,
            statements.c.qualifier == (qualifier or ""),
            statements.c.sid == sid,
        )
    )
    _bump(connection, function, qualifier)


def read(connection: Connection, key: FunctionKey, qualifier: str | None) -> tuple[dict[str, Any], str]:
    """The policy and its RevisionId."""
    function = get_function(connection, key)
    found = _statements(connection, function, None if qualifier == LATEST else qualifier)
    if not found:
        raise AwsError("ResourceNotFoundException", "The resource you requested does not exist.")
    return document(found), _revision(connection, function, qualifier)


def _statements(connection: Connection, function: Function, qualifier: str | None) -> list[Statement]:
    texts = connection.execute(
        select(statements.c.statement)
        .where(statements.c.function_id == function.id, statements.c.qualifier == (qualifier or ""))
        .order_by(statements.c.position)
    ).scalars()
    return [decode(text) for text in texts]


def _revision(connection: Connection, function: Function, qualifier: str | None) -> str:
    if qualifier is None or is_version(qualifier):
        return get_version(connection, function, qualifier or LATEST).revision_id
    return get_alias(connection, function, qualifier).revision_id


def _bump(connection: Connection, function: Function, qualifier: str | None) -> None:
    if qualifier is None or is_version(qualifier):
        function_store.bump_revision(connection, function, version_number(qualifier or LATEST))
    else:
        alias_store.bump_revision(connection, function, qualifier)


def _check_revision(given: str | None, current: str) -> None:
    if given and given != current:
        raise AwsError(
            "PreconditionFailedException",
            "The Revision Id provided does not match the latest Revision Id. "
            "Call the GetPolicy API to retrieve the latest Revision Id",
        )
