"""The pages in ``docs/`` and CONTRIBUTING.md speak of this repository: what they name is there."""

import ast
import html
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = (*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md")
_FOLDERS = ("dispatcher", "workers", "tests", "compose", "docs", ".ci")
#: A path below one of the folders, and what is named in that file; not a part of a URL or of a longer path.
_PLACE = re.compile(
    rf"(?<![\w/.:-])((?:{'|'.join(map(re.escape, _FOLDERS))})/[\w./-]*[\w/])(?:::([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*))?"
)
_LINK = re.compile(r"\]\(([^)\s#]*)(?:#([\w-]+))?\)")
_LAYERS = re.compile(r"```layers\n(.*?)```", re.DOTALL)


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _places(page: Path) -> set[tuple[str, str]]:
    """Path and name, empty for none."""
    return {(path, name) for path, name in _PLACE.findall(_text(page))}


def _names(tree: ast.Module | ast.ClassDef, prefix: str = "") -> set[str]:
    """What is defined: functions, classes, their members, and what is assigned."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(prefix + node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {prefix + node.name, *_names(node, f"{prefix}{node.name}.")}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(prefix + node.target.id)
        elif isinstance(node, ast.Assign):
            found |= {prefix + target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def _defines(path: Path, name: str) -> bool:
    if path.suffix == ".go":
        return bool(re.search(rf"^(?:func (?:\([^)]*\) )?|type ){re.escape(name)}\b", _text(path), re.MULTILINE))
    return path.suffix == ".py" and name in _names_in(path)


@cache
def _names_in(path: Path) -> set[str]:
    return _names(ast.parse(_text(path)))


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _text(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_on_a_page_exists(page: Path) -> None:
    missing = sorted({path for path, _ in _places(page) if not (ROOT / path).exists()})
    assert not missing, f"{page.name} names what is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_on_a_page_is_defined_in_its_file(page: Path) -> None:
    named = sorted((path, name) for path, name in _places(page) if name and (ROOT / path).is_file())
    missing = [f"{path}::{name}" for path, name in named if not _defines(ROOT / path, name)]
    assert not missing, f"{page.name} names what is not defined there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_on_a_page_leads_somewhere(page: Path) -> None:
    dead = []
    for target, anchor in _LINK.findall(_text(page)):
        if "://" in target:
            continue
        place = (page.parent / target).resolve() if target else page
        if not place.exists() or (anchor and anchor not in _anchors(place)):
            dead.append(f"{target}#{anchor}")
    assert not dead


@pytest.mark.parametrize("package", ["workers", "dispatcher"])
def test_the_layers_on_the_page_are_all_rooms_of_a_package(package: str) -> None:
    here = ROOT / package
    rooms = {path.stem for path in here.glob("*.py")} | {path.parent.name for path in here.glob("*/__init__.py")}
    named = [room for layer in _layers_on_the_page(package) for room in layer]
    assert sorted(named) == sorted(rooms - {"__init__"})


@pytest.mark.parametrize("package", ["workers", "dispatcher"])
def test_the_layers_on_the_page_are_those_that_the_linter_holds(package: str) -> None:
    """In any order among those that are independent; the linter's own marks of independence are ``|`` and ``:``."""
    contracts = tomllib.loads(_text(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = [
        contract["layers"]
        for contract in contracts
        if contract["type"] == "layers" and contract.get("containers", [""])[0] == package
    ]
    held = [{room.strip(" ()") for room in re.split(r"[|:]", layer)} for layer in layers]
    assert [set(layer) for layer in _layers_on_the_page(package)] == held


def _layers_on_the_page(package: str) -> list[list[str]]:
    """From top to bottom."""
    (block,) = _LAYERS.findall(_text(ROOT / "docs" / "architecture.md"))
    (lines,) = [part.split("\n")[1:] for part in block.strip().split("\n\n") if part.startswith(f"{package}\n")]
    return [[room.strip() for room in line.split("|")] for line in lines]


def test_each_word_of_the_glossary_is_there_once_and_in_order() -> None:
    words = re.findall(r"^\| (?!word |---)([^|]+?) \|", _text(ROOT / "docs" / "glossary.md"), re.MULTILINE)
    # Names of classes stand among the words as they sound.
    order = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", word).lower() for word in words]
    assert order == sorted(set(order))


def test_the_picture_is_drawn_from_its_source() -> None:
    """By the words in it: another Graphviz draws the same with other numbers."""
    labels = re.findall(r'label=(?:<(.*?)>[,;\]]|"(.*?)")', _text(ROOT / "docs" / "processes.dot"))
    wanted = {
        word for rich, plain in labels for word in re.findall(r"[\w-]+", re.sub(r"<.*?>|\\n", " ", rich or plain))
    }
    drawn = " ".join(re.findall(r"<text[^>]*>(.*?)</text>", _text(ROOT / "docs" / "processes.svg")))
    assert wanted
    assert wanted <= set(re.findall(r"[\w-]+", html.unescape(drawn)))
