"""``docs/settings.md``, made from the tables that `everwarm doctor` shows: ``python -m tests.docs.settings_page`` prints it."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from dispatcher import settings as dispatcher_settings
from dispatcher.settings import DispatcherSettings
from workers import settings as worker_settings
from workers.contract.settings import NOT_IN_THIS_VERSION, Parse, Setting, Shared, as_text, declared
from workers.docker_flags import Flags
from workers.settings import WorkerSettings

_HEAD: Final = """\
# Settings

<!-- Made by `make docs` from the tables in workers/contract/settings.py, dispatcher/settings.py and workers/settings.py. -->

Settings are environment variables. Each process reads them once, at its start; an empty variable counts as unset. An invalid
value stops the start with status 2 and a line that names the variable, the value and what is valid. `everwarm doctor` shows all
of them with the values that hold here, and an option of a command (`--port`) goes before its variable (`EVERWARM_PORT`).

A default that reads *found at start* depends on the machine or the user; the last column says how. Sizes with K, M and G are
powers of 1024. Names that begin with `LAMBDA_` are known from LocalStack, and mean here what they meant there.
"""

_SECTIONS: Final = (
    ("Dispatcher and workers", "Both sides read these; give them the same values.", Shared),
    ("Dispatcher", "`everwarm dispatcher`, and `everwarm up` for its dispatcher.", DispatcherSettings),
    ("Worker", "`everwarm worker`, and `everwarm up` for its workers.", WorkerSettings),
)

#: Defaults that say that there is none.
_NOTHING: Final[tuple[Any, ...]] = (None, "", (), {}, Flags())
#: No value is valid for any parser that is choosy: the error then says what would be.
_PROBE: Final = "?"


class Line(NamedTuple):
    """One setting as the page shows it."""

    name: str
    default: str
    valid: str
    meaning: str


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, words, cls in _SECTIONS:
        parts.append(f"## {title}\n\n{words}\n\n{table(lines_of(cls))}")
    parts.append(_TOOLS + _pairs(sorted(dispatcher_settings.AWS_VARIABLES.items())))
    parts.append(_ABSENT + "".join(f"* `{name}` {text}.\n" for name, (_, text) in sorted(NOT_IN_THIS_VERSION.items())))
    return "\n".join(parts)


_TOOLS: Final = """\
## Variables of AWS's own tools

Where ours is not set, the endpoint that AWS's SDKs have a variable for counts (not with `EVERWARM_REAL_AWS=1`: then botocore
reads its variables and profiles itself). `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` sign the requests of `everwarm ps`, `logs`
and `invocations` when `EVERWARM_CREDENTIALS` is not set.

"""
_ABSENT: Final = """\
## Known, and without effect in this version

They are checked, and each gets one line of warning at start. So does any other variable that begins with `EVERWARM_` and is not
on this page.

"""


def lines_of(cls: type[Shared]) -> list[Line]:
    """The settings that a class adds to those of its bases, by name."""
    inherited = set() if cls is Shared else set(declared(Shared))
    plain, found = _made(cls)
    return sorted(
        Line(
            setting.name,
            _default(setting, getattr(plain, field), getattr(found, field)),
            valid(setting.parse),
            setting.doc,
        )
        for field, setting in declared(cls).items()
        if field not in inherited
    )


def _made(cls: type[Shared]) -> tuple[Shared, Shared]:
    """The defaults as they are declared, and as a process that starts has filled them in."""
    if cls is WorkerSettings:
        return WorkerSettings(), worker_settings.read({})
    return DispatcherSettings(), dispatcher_settings.read({})


def _default(setting: Setting, plain: Any, found: Any) -> str:
    if plain != found:
        return "*found at start*"
    if plain in _NOTHING:
        return "-"
    return f"`{f'{as_text(plain)} {setting.unit}'.strip()}`"


def valid(parse: Parse) -> str:
    """What the parser says is valid, in the words of its error; any text where it takes everything."""
    try:
        taken = parse(_PROBE)
    except ValueError as error:
        return str(error).removeprefix("must be ").rpartition("valid are ")[2]
    return "words separated by commas" if isinstance(taken, tuple) else "any text"


def table(lines: Iterable[Line]) -> str:
    """Lines as a table of Markdown."""
    rows = [f"| `{one.name}` | {one.default} | {_cell(one.valid)} | {_cell(one.meaning)} |\n" for one in lines]
    return "| variable | default | valid | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    names: Mapping[str, str] = {field: setting.name for field, setting in declared(DispatcherSettings).items()}
    lines = [f"| `{names[field]}` | `{variable}` |\n" for field, variable in rows]
    return "| ours | else |\n|---|---|\n" + "".join(lines)


def _cell(text: str) -> str:
    """``<`` begins no tag, and ``|`` no column."""
    return text.replace("<", "&lt;").replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
