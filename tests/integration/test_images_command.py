"""``everwarm images``: what it builds, shows and says."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import docker as services
from tests.services.commands import everwarm
from workers.engine import Engine
from workers.images import recipes, rootfs

engine = services.engine

NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
OTHER = "everwarm.test/other"
#: The smallest.
RUNTIME = "provided.al2023"
NAME = f"{OTHER}/provided:al2023"


@pytest.fixture
def no_other_image(engine: Engine) -> Iterator[None]:
    engine.remove_image(NAME)
    yield
    engine.remove_image(NAME)


def test_list_shows_what_can_be_built_also_where_no_engine_answers() -> None:
    done = everwarm("images", "list", "--json", environ=NO_ENGINE)
    assert done.status == 0, done.err
    assert json.loads(done.out) == [
        {"runtime": "nodejs20.x", "image": "public.ecr.aws/lambda/nodejs:20", "state": "unknown"},
        {"runtime": "provided.al2023", "image": "public.ecr.aws/lambda/provided:al2023", "state": "unknown"},
        {"runtime": "python3.11", "image": "public.ecr.aws/lambda/python:3.11", "state": "unknown"},
        {"runtime": "python3.13", "image": "public.ecr.aws/lambda/python:3.13", "state": "unknown"},
    ]


def test_list_follows_the_setting_of_the_registry(engine: Engine) -> None:
    done = everwarm("images", "list", environ={"LAMBDA_CONTAINER_REGISTRY": services.REGISTRY})
    lines = [line.split() for line in done.out.splitlines()]
    assert ["python3.11", "current", services.image("python3.11")] in lines


def test_build_says_that_no_engine_answers() -> None:
    done = everwarm("images", "build", environ=NO_ENGINE)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("everwarm: no container engine answers; start one, or set DOCKER_HOST")
    assert done.err.count("\n") == 1


def test_build_refuses_an_unknown_runtime_with_those_there_are(engine: Engine) -> None:
    done = everwarm("images", "build", "cobol1")
    assert done.status == 1
    assert done.err.startswith("everwarm: there is no recipe for cobol1; there are nodejs20.x, provided.al2023")


def test_an_image_comes_from_the_cache_once(engine: Engine, no_other_image: None) -> None:
    cached = rootfs.cache_directory(os.environ) / f"{RUNTIME}-{recipes.read(RUNTIME).digest}.tar"
    if not cached.exists():
        pytest.skip(f"{cached} is not there: the images were built elsewhere")
    first = everwarm("images", "build", "--registry", OTHER, RUNTIME)
    assert (first.status, first.err) == (0, "")
    assert first.out.startswith(f"{NAME}: built in ")
    second = everwarm("images", "build", "--registry", OTHER, RUNTIME)
    assert second.out == f"{NAME}: is there\n"


def test_an_image_of_another_origin_is_replaced_only_by_name(
    engine: Engine, no_other_image: None, tmp_path: Path
) -> None:
    (tmp_path / "empty.tar").write_bytes(bytes(10240))
    engine.import_image(tmp_path / "empty.tar", NAME, [])
    assert ["provided.al2023", "foreign", NAME] in [
        line.split() for line in everwarm("images", "list", "--registry", OTHER).out.splitlines()
    ]
