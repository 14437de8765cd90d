"""Reserved concurrency: the part of its account's concurrency that a function has for itself alone."""

from sqlalchemy import Connection, func, select, update

from dispatcher.catalog import functions as function_store
from dispatcher.catalog.lookups import get_function
from dispatcher.catalog.rows import FunctionKey
from dispatcher.sql.tables import functions
from dispatcher.wire.arn import LATEST
from dispatcher.wire.errors import AwsError


def reserved(connection: Connection, account: str, region: str) -> int:
    """The sum of what the account's functions reserve in the region."""
    query = select(func.coalesce(func.sum(functions.c.reserved_concurrency), 0)).where(
        functions.c.account == account, functions.c.region == region
    )
    return int(connection.execute(query).scalar_one())


def usage(connection: Connection, account: str, region: str) -> tuple[int, int, int]:
    """Number of functions, bytes of all their versions' zips, and what they reserve together."""
    count, size = function_store.usage(connection, account, region)
    return count, size, reserved(connection, account, region)


def put(connection: Connection, key: FunctionKey, amount: int, account_limit: int, minimum_unreserved: int) -> None:
    """Reserve concurrency for a function.

    Raises ``InvalidParameterValueException`` when less than ``minimum_unreserved`` of the account's would be left for others.
    """
    _lock_account(connection, key)
    function = get_function(connection, key, qualifier=LATEST)  # AWS shows the qualifier here, and only here
    before = function.reserved_concurrency or 0
    unreserved = account_limit - (reserved(connection, key.account, key.region) - before) - amount
    if amount > before and unreserved < minimum_unreserved:
        raise AwsError(
            "InvalidParameterValueException",
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
            f"below its minimum value of [{minimum_unreserved}].",
        )
    _set(connection, function.id, amount)


def _lock_account(connection: Connection, key: FunctionKey) -> None:
    """Two dispatchers must not reserve the same remainder (SQLite has one writer, and no row locks)."""
    connection.execute(
        select(functions.c.id)
        .where(functions.c.account == key.account, functions.c.region == key.region)
        .order_by(functions.c.id)
        .with_for_update()
    ).all()


def clear(connection: Connection, key: FunctionKey) -> None:
    """Reserve nothing any more: the function shares the account's common concurrency."""
    _set(connection, get_function(connection, key, lock=True).id, None)


def _set(connection: Connection, function_id: int, amount: int | None) -> None:
    connection.execute(update(functions).where(functions.c.id == function_id).values(reserved_concurrency=amount))


def read(connection: Connection, key: FunctionKey) -> int | None:
    """What the function reserves; None when nothing."""
    return get_function(connection, key).reserved_concurrency
