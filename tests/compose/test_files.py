"""compose.yaml passes on what dispatcher and workers can be told, and .env.example says what a person must set."""

import re
from pathlib import Path
from typing import Final

from dispatcher.settings import DispatcherSettings
from workers.contract.settings import declared
from workers.settings import WorkerSettings

_FOLDER: Final = Path(__file__).resolve().parents[2] / "compose"
_COMPOSE: Final = (_FOLDER / "compose.yaml").read_text()
_EXAMPLE: Final = (_FOLDER / ".env.example").read_text()

#: Settings that are not a person's business here: fixed by the image or the file, or of no use in a container.
_NOT_PASSED_ON: Final = {
    "DOCKER_HOST", "EVERWARM_DATA", "EVERWARM_INSECURE", "EVERWARM_LOCAL_UIDS", "EVERWARM_MODE", "EVERWARM_PORT",
    "EVERWARM_IMAGE_WORKER", "EVERWARM_REAL_AWS", "EVERWARM_SUPERVISED", "EVERWARM_WORKER_NAME",
}  # fmt: skip
#: Variables of the file itself.
_OWN: Final = {
    "EVERWARM_BASE_IMAGE", "EVERWARM_BUILD_BASE_IMAGE", "EVERWARM_BUILD_NETWORK", "EVERWARM_DOCKER_SOCKET", "EVERWARM_IMAGE",
    "EVERWARM_POSTGRES_IMAGE", "EVERWARM_POSTGRES_PASSWORD", "EVERWARM_PUBLISH", "EVERWARM_REDIS_IMAGE",
    "EVERWARM_REDIS_MAXMEMORY", "EVERWARM_REDIS_PASSWORD", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL",
}  # fmt: skip


def _settings() -> set[str]:
    return {setting.name for kind in (DispatcherSettings, WorkerSettings) for setting in declared(kind).values()}


def test_every_setting_is_passed_on() -> None:
    given = set(re.findall(r"^ +([A-Z][A-Z0-9_]+):", _COMPOSE, re.MULTILINE))
    assert _settings() - given == _NOT_PASSED_ON


def test_every_variable_means_something() -> None:
    used = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", _COMPOSE))
    assert used - _settings() == _OWN
    for name in re.findall(r"^(?:# )?([A-Z_]+)=", _EXAMPLE, re.MULTILINE):
        assert name in {*used, "COMPOSE_PROJECT_NAME"}, name


def test_the_example_has_every_variable_that_must_be_set() -> None:
    required = set(re.findall(r"\$\{([A-Z_]+):\?", _COMPOSE))
    assert set(re.findall(r"^([A-Z_]+)=$", _EXAMPLE, re.MULTILINE)) == required


def test_the_defaults_in_the_example_are_those_of_the_file() -> None:
    for name, value in re.findall(r"^# (EVERWARM_[A-Z_]+|LAMBDA_[A-Z_]+)=(\S+)$", _EXAMPLE, re.MULTILINE):
        found = set(re.findall(rf"\$\{{{name}:-([^}}]*)\}}", _COMPOSE))
        assert found <= {value, ""}, name
