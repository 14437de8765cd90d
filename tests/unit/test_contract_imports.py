"""The contract is a leaf: it imports the standard library and msgspec; its broker and transport Celery and kombu as well."""

import ast
import sys
from pathlib import Path

import pytest

import workers.contract

FILES = sorted(Path(workers.contract.__file__).parent.rglob("*.py"))
ALLOWED = set(sys.stdlib_module_names) | {"msgspec"}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return {name for name in found if not f"{name}.".startswith("workers.contract.")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_contract_module_imports_nothing_else(file: Path) -> None:
    allowed = ALLOWED | ({"celery", "kombu"} if file.name in {"broker.py", "transport.py"} else set())
    assert {name.partition(".")[0] for name in imports(file)} <= allowed
