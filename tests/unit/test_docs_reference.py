"""The reference pages of ``docs/`` say all that the code has, and nothing that it has not."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from starlette.routing import Route

import dispatcher
from dispatcher.cli import main
from dispatcher.http.app import PAGES
from dispatcher.operations.registry import handlers
from dispatcher.settings import DispatcherSettings
from dispatcher.wire.model import operations
from tests.docs import settings_page
from workers.contract.settings import NOT_IN_THIS_VERSION, declared
from workers.settings import WorkerSettings

DOCS = Path(__file__).parents[2] / "docs"


def sections(page: str) -> dict[str, str]:
    """Heading → what stands below it until the next heading."""
    titles_and_bodies = re.split(r"(?m)^#+ (.+)\n", page_text(page))[1:]
    titles, bodies = titles_and_bodies[::2], titles_and_bodies[1::2]
    assert len(set(titles)) == len(titles), f"{page} has two sections of one title"
    return dict(zip(titles, bodies, strict=True))


def page_text(page: str) -> str:
    return (DOCS / page).read_text()


# --- settings.md ---


def test_the_page_of_settings_is_the_one_made_from_the_tables() -> None:
    assert page_text("settings.md") == settings_page.page(), "type: make docs"


def test_the_page_of_settings_has_every_variable_once() -> None:
    names = {setting.name for cls in (DispatcherSettings, WorkerSettings) for setting in declared(cls).values()}
    lines = re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|$", page_text("settings.md"), flags=re.MULTILINE)
    assert sorted(lines) == sorted(names)
    for name in NOT_IN_THIS_VERSION:
        assert f"* `{name}` " in page_text("settings.md")


# --- http.md ---


def page_titles() -> Iterator[str]:
    """Method and path of every route below ``/_everwarm``: those of each class of the dispatcher that has some."""
    for module in pkgutil.walk_packages(dispatcher.__path__, "dispatcher."):
        if ".cli" in module.name:
            continue
        for cls in vars(importlib.import_module(module.name)).values():
            if isinstance(cls, type) and cls.__module__ == module.name and "routes" in vars(cls):
                # What the routes lead to needs the instance's parts; the routes themselves do not.
                routes: list[Route] = object.__new__(cls).routes()
                for route in routes:
                    for method in sorted((route.methods or set()) - {"HEAD"}):
                        yield f"`{method} {PAGES}{route.path}`"


def test_every_path_of_our_own_has_its_section_in_the_page_of_http() -> None:
    expected = set(page_titles())
    assert len(expected) > 10
    found = {title for title in sections("http.md") if title.startswith("`")}
    assert found == expected


@pytest.mark.parametrize("title", list(page_titles()))
def test_a_section_of_the_page_of_http_shows_answer_errors_and_a_curl_line(title: str) -> None:
    section = sections("http.md")[title]
    path = title.strip("`").partition(" ")[2]
    curl = re.search(r"^ {4}curl .*|^curl .*", section, flags=re.MULTILINE)
    assert curl, "no curl line"
    assert re.search(re.sub(r"\\\{\w+\\\}", r"[^/ ?'\"]+", re.escape(path)), curl[0]), curl[0]
    assert "**Answer**" in section
    assert "**Errors**" in section


# --- cli.md ---


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by what is typed for it."""
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from commands(command.commands[name], *path, name)
    else:
        yield " ".join(("everwarm", *path)), command


COMMANDS = dict(commands(main))


def test_every_command_has_its_section_in_the_page_of_the_command_line() -> None:
    found = {title.strip("`") for title in sections("cli.md") if title.startswith("`everwarm")}
    assert found == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_of_the_page_of_the_command_line_has_every_option_argument_and_exit_code(name: str) -> None:
    section = sections("cli.md")[f"`{name}`"]
    options = [parameter for parameter in COMMANDS[name].params if isinstance(parameter, click.Option)]
    expected = {", ".join(sorted(option.opts, key=len)) for option in options}
    found = set(re.findall(r"^\| `(-[^` ]+(?:`, `-[^` ]+)*)(?: [A-Z|]+)?` \|", section, flags=re.MULTILINE))
    assert {line.replace("`", "") for line in found} == expected
    usage = re.search(rf"^ {{4}}{name}\b.*", section, flags=re.MULTILINE)
    assert usage, "no usage line"
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Argument):
            assert parameter.make_metavar(click.Context(COMMANDS[name])).strip("[].") in usage[0]
    assert "**Exit codes**" in section
    assert re.search(r"^    \$ " + name, section, flags=re.MULTILINE), "no example"


# --- aws.md ---


def test_the_page_of_aws_says_which_operations_there_are() -> None:
    found = sections("aws.md")
    built, missing = (
        re.findall(r"`([A-Z]\w+)`", found[title]) for title in ("Operations that exist", "Operations that answer 501")
    )
    assert sorted(built) == sorted(handlers())
    assert sorted(missing) == sorted(operations().keys() - handlers().keys())


def test_the_readme_counts_the_operations_right() -> None:
    assert f"[{len(handlers())} operations](docs/aws.md)" in (DOCS.parent / "README.md").read_text()
