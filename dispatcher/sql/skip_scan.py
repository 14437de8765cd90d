"""The distinct values of an indexed column, found by skipping from one to the next (a loose index scan).

Neither database does this for ``SELECT DISTINCT``, which reads every row. Here a value with a million rows costs one look
into the index, so the cost depends on how many values there are, and never on how many rows.
"""


def skip_scan(table: str, column: str, condition: str, first: str = "") -> str:
    """SQL of a recursive query ``names(name)``, to stand behind ``WITH RECURSIVE``; its last name is NULL.

    Only rows that meet ``condition`` count. Written word for word like the condition of a partial index, it lets SQLite use
    that index. The first name meets the condition ``first`` besides. All arguments are SQL, so they never come from outside.
    """
    smallest = f"SELECT min({column}) FROM {table} WHERE {condition}"  # noqa: S608 - words of ours
    begin = f"{smallest} AND {first}" if first else smallest
    return (
        f"names(name) AS ({begin} UNION ALL "  # noqa: S608 - words of ours
        f"SELECT ({smallest} AND {column} > names.name) FROM names WHERE names.name IS NOT NULL)"
    )
