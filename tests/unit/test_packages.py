"""What a package's ``__init__`` may hold: neither of the linter's contracts sees arrows between a package and its own."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    str(file.relative_to(ROOT)) for name in ("dispatcher", "workers") for file in (ROOT / name).rglob("__init__.py")
]


def _is_reexport(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Assign):
        return [ast.unparse(target) for target in statement.targets] == ["__all__"]
    return isinstance(statement, ast.Import | ast.ImportFrom)


@pytest.mark.parametrize("file", FILES)
def test_a_package_has_a_docstring_and_at_most_reexports(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    assert ast.get_docstring(tree), "it says what the room is for"
    assert not [ast.unparse(statement) for statement in tree.body[1:] if not _is_reexport(statement)]
