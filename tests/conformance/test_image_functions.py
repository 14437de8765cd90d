"""Container-image functions: in every docker mode, and refused with a reason where none is served."""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.services.calls import wait_until_handed_back
from tests.services.docker import KINDS, image, require_engine
from tests.services.functions import ROLE, Functions
from tests.services.image_functions import make_layered_image, make_static_image
from tests.services.stack import Stack
from workers.engine import Engine

_numbers = itertools.count(1)
ENTRY = 'ENTRYPOINT ["/function", "entry"]'


@pytest.fixture(params=[kind for kind in KINDS if kind != "local"])
def mode(request: pytest.FixtureRequest) -> str:
    """Every docker mode; local has a test of its own below."""
    found: str = request.param
    return found


@pytest.fixture
def images() -> Iterator[Callable[[], str]]:
    """Names for images that are gone after the test."""
    engine = require_engine()
    made: list[str] = []

    def name() -> str:
        made.append(f"everwarm.test/function:{os.getpid()}-{next(_numbers)}")
        return made[-1]

    yield name
    for one in made:
        engine.remove_image(one)
    engine.close()


@pytest.fixture
def engine(images: object) -> Iterator[Engine]:
    """The engine."""
    found = require_engine()
    yield found
    found.close()


def create(functions: Functions, uri: str, **members: Any) -> str:
    name = f"image-{os.getpid()}-{next(_numbers)}"
    functions.client.create_function(
        FunctionName=name, Role=ROLE, PackageType="Image", Code={"ImageUri": uri}, Timeout=20,
        Tags={"everwarm:mode": functions.mode}, **members,
    )  # fmt: skip
    return name


def state(functions: Functions, name: str) -> tuple[str, str, str]:
    found = functions.end_of_pending(name)
    return found["State"], found.get("StateReasonCode", ""), found.get("StateReason", "")


def test_an_image_without_a_shell(functions: Functions, images: Callable[[], str], engine: Engine) -> None:
    uri = images()
    make_static_image(engine, uri, [ENTRY, 'CMD ["command"]', "ENV BAKED=yes OWN=image", "WORKDIR /here"])
    name = create(functions, uri, Environment={"Variables": {"OWN": "function"}})
    assert state(functions, name)[0] == "Active"
    answer = functions.invoke(name, {"a": 1})
    assert answer.error is None
    assert answer.json["uid"] != 0
    kept = {key: answer.json[key] for key in ("event", "args", "directory", "calls", "tmp", "baked", "own")}
    assert kept == {
        "event": {"a": 1}, "args": ["/function", "entry", "command"], "directory": "/here", "calls": 1, "tmp": True,
        "baked": "yes", "own": "function",
    }  # fmt: skip
    assert "call 1" in answer.log
    wait_until_handed_back(functions, name)
    assert functions.invoke(name, {}).json["calls"] == (2 if functions.keeps_process else 1)


def test_image_config_goes_over_the_images(functions: Functions, images: Callable[[], str], engine: Engine) -> None:
    uri = images()
    make_static_image(engine, uri, [ENTRY, 'CMD ["command"]'])
    config = {"EntryPoint": ["/function", "other"], "Command": ["x", "y"], "WorkingDirectory": "/elsewhere"}
    name = create(functions, uri, ImageConfig=config)
    assert state(functions, name)[0] == "Active"
    answer = functions.invoke(name, {}).json
    assert answer["args"] == ["/function", "other", "x", "y"]


def test_an_image_on_a_runtimes_image(functions: Functions, images: Callable[[], str], engine: Engine) -> None:
    uri = images()
    code = b"import os\ndef handler(event, context):\n    return [event, WORD]\n"
    make_layered_image(engine, image("python3.11"), uri, {"/var/task/app.py": b"WORD = 'one'\n" + code})
    name = create(functions, uri, ImageConfig={"Command": ["app.handler"]})
    assert state(functions, name)[0] == "Active"
    found = functions.client.get_function(FunctionName=name)
    assert found["Code"]["ImageUri"] == uri
    assert found["Configuration"]["ImageConfigResponse"]["ImageConfig"]["Command"] == ["app.handler"]
    assert functions.invoke(name, 5).json == [5, "one"]
    # Built anew under the same name, and updated: the new one runs, as on AWS, which resolves the name at the update.
    make_layered_image(engine, image("python3.11"), uri, {"/var/task/app.py": b"WORD = 'two'\n" + code})
    assert functions.invoke(name, 5).json[1] == "one"
    functions.client.update_function_code(FunctionName=name, ImageUri=uri)
    functions.settle(name)
    assert functions.invoke(name, 5).json[1] == "two"


def test_a_missing_image_is_a_state(functions: Functions, images: Callable[[], str]) -> None:
    uri = "everwarm.test/nothing:here"
    name = create(functions, uri)
    found, code, reason = state(functions, name)
    assert (found, code) == ("Failed", "ImageDeleted")
    assert f"has no image {uri}" in reason
    assert f"docker pull {uri}" in reason
    message = functions.refused(name, {})
    assert message[:2] == ("ResourceConflictException", 409)


def test_an_image_that_starts_nothing(functions: Functions, images: Callable[[], str], engine: Engine) -> None:
    uri = images()
    make_static_image(engine, uri, [])
    name = create(functions, uri)
    assert state(functions, name)[:2] == ("Failed", "InvalidImage")


def test_a_program_that_is_not_there(functions: Functions, images: Callable[[], str], engine: Engine) -> None:
    uri = images()
    make_static_image(engine, uri, ['ENTRYPOINT ["/nothing"]'])
    name = create(functions, uri)
    assert state(functions, name)[0] == "Active"
    answer = functions.invoke(name, {})
    assert answer.error == "Unhandled"
    assert answer.json["errorType"] == "Runtime.InvalidEntrypoint"
    assert "/nothing" in answer.json["errorMessage"]


def test_where_no_docker_mode_is_served(stack: Stack) -> None:
    functions = Functions(stack)
    name = create(functions, "everwarm.test/any:thing")
    found, code, reason = state(functions, name)
    assert (found, code) == ("Failed", "InvalidConfiguration")
    assert "everwarm worker --mode docker-reuse" in reason
