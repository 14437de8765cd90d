"""Settings: what is accepted, what is refused with which words, and what never shows."""

import re
from pathlib import Path

import pytest

from dispatcher import settings as dispatcher_settings
from workers import settings as worker_settings
from workers.contract import settings as shared
from workers.contract.settings import SettingError

#: The table of variables that people know, with a value that is valid for each.
PEOPLE_KNOW = {
    "LAMBDA_EXECUTOR": "local",
    "LAMBDA_STAY_OPEN_MODE": "0",
    "LAMBDA_KEEPALIVE_MS": "1000",
    "LAMBDA_REMOTE_DOCKER": "1",
    "LAMBDA_DOCKER_NETWORK": "a,b",
    "LAMBDA_DOCKER_DNS": "10.0.0.1",
    "LAMBDA_DOCKER_FLAGS": "-e A=1",
    "LAMBDA_CONTAINER_REGISTRY": "registry.example/lambda",
    "LAMBDA_RUNTIME_IMAGE_MAPPING": '{"python3.12": "image"}',
    "LAMBDA_REMOVE_CONTAINERS": "0",
    "LAMBDA_RUNTIME_ENVIRONMENT_TIMEOUT": "30",
    "LAMBDA_FALLBACK_URL": "dynamodb://table",
    "LAMBDA_FORWARD_URL": "http://other:4566",
    "LAMBDA_JAVA_OPTS": "-Xmx256m",
    "LAMBDA_CODE_EXTRACT_TIME": "60",
    "LAMBDA_SYNCHRONOUS_CREATE": "1",
    "LAMBDA_IGNORE_ARCHITECTURE": "1",
    "LAMBDA_RETRY_BASE_DELAY": "1",
    "LAMBDA_TRUNCATE_STDOUT": "0",
    "HOSTNAME_FROM_LAMBDA": "box",
    "LAMBDA_DISABLE_AWS_ENDPOINT_URL": "1",
    "LAMBDA_LIMITS_CONCURRENT_EXECUTIONS": "10",
    "LAMBDA_LIMITS_MINIMUM_UNRESERVED_CONCURRENCY": "0",
    "LAMBDA_LIMITS_MAX_FUNCTION_PAYLOAD_SIZE_BYTES": "1000",
    "LAMBDA_LIMITS_CODE_SIZE_ZIPPED": "1000",
    "LAMBDA_LIMITS_CODE_SIZE_UNZIPPED": "1000",
    "LAMBDA_LIMITS_MAX_FUNCTION_ENVVAR_SIZE_BYTES": "1000",
    "DEBUG": "1",
}


def variables(*structs: type[shared.Shared]) -> set[str]:
    return {setting.name for struct in structs for setting in shared.declared(struct).values()}


def test_every_known_variable_is_used_or_gets_one_warning() -> None:
    dispatcher_settings.read(PEOPLE_KNOW)
    worker_settings.read(PEOPLE_KNOW)
    warned = [line.split()[0] for line in shared.warnings(PEOPLE_KNOW)]
    used = variables(dispatcher_settings.DispatcherSettings, worker_settings.WorkerSettings)
    assert len(warned) == len(set(warned))
    assert set(warned) | used >= set(PEOPLE_KNOW)
    assert not set(warned) & used


def test_known_names_are_those_of_the_structs() -> None:
    declared = variables(dispatcher_settings.DispatcherSettings, worker_settings.WorkerSettings)
    assert {name for name in declared if name.startswith("EVERWARM_")} == shared.KNOWN


def test_unknown_everwarm_variable_gets_a_warning() -> None:
    (line,) = shared.warnings({"EVERWARM_PROT": "1", "PATH": "/bin", "EVERWARM_EMPTY": ""})
    assert line.startswith("EVERWARM_PROT is not a setting")


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("LAMBDA_EXECUTOR", "dockr", "local, docker, docker-reuse"),
        ("EVERWARM_PORT", "70000", "from 1 to 65535"),
        ("EVERWARM_PORT", "4566x", "whole number"),
        ("LAMBDA_LIMITS_CONCURRENT_EXECUTIONS", "0", "from 1 to"),
        ("EVERWARM_SYNC_QUEUE_WAIT_S", "-1", "from 0.1 to 900"),
        ("EVERWARM_REDIS_URL", "localhost:6379", "redis:// or unix://"),
        ("EVERWARM_DATA", "data", "absolute path"),
        ("EVERWARM_LOCAL_UIDS", "0-100", "user ids"),
        ("EVERWARM_HOT_RELOAD_ROOTS", "src", "absolute paths"),
        ("EVERWARM_LOGS_MAX", "1T", "K, M or G"),
        ("EVERWARM_FUNCTION_API", "some", "invoke, all, none"),
        ("EVERWARM_INSECURE", "maybe", "1 or 0"),
        ("LAMBDA_RUNTIME_IMAGE_MAPPING", "[1]", "JSON object"),
        ("LAMBDA_STAY_OPEN_MODE", "2", "1 or 0"),
    ],
)
def test_invalid_value_names_variable_value_and_what_is_valid(name: str, value: str, valid: str) -> None:
    reader = worker_settings if name in variables(worker_settings.WorkerSettings) else dispatcher_settings
    with pytest.raises(SettingError) as caught:
        reader.read({name: value})
    # The value of a variable that may hold a password is not repeated.
    shown = re.escape(value) if name != "EVERWARM_REDIS_URL" else r"\(not shown\)"
    assert re.match(f"{name}={shown}: ", str(caught.value))
    assert valid in str(caught.value)


@pytest.mark.parametrize("value", ['{"python3.12": 3}', '{"python3.12": ["a"]}', "[]", '{"python3.12": ""}'])
def test_local_runtimes_must_map_to_commands(value: str) -> None:
    with pytest.raises(SettingError, match=r"EVERWARM_LOCAL_RUNTIMES=.*python3\.12"):
        worker_settings.read({"EVERWARM_LOCAL_RUNTIMES": value})


def test_local_runtimes_are_command_lines() -> None:
    found = worker_settings.read({"EVERWARM_LOCAL_RUNTIMES": '{"python3.12": "/bin/a -x"}'})
    assert found.local_runtimes == {"python3.12": "/bin/a -x"}


def test_an_empty_variable_is_an_unset_one() -> None:
    assert dispatcher_settings.read({"EVERWARM_PORT": "", "LAMBDA_EXECUTOR": ""}).port == 4566


def test_credentials_from_text_and_file(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("# ours\nAK:s:e:cret:000000000001\n\nAK2:other:000000000002\n")
    found = dispatcher_settings.read({"EVERWARM_CREDENTIALS": f"@{file}"}).credentials
    assert [(c.key, c.secret, c.account) for c in found] == [
        ("AK", "s:e:cret", "000000000001"),
        ("AK2", "other", "000000000002"),
    ]
    assert dispatcher_settings.read({"EVERWARM_CREDENTIALS": "a:b:000000000001"}).credentials[0].key == "a"


@pytest.mark.parametrize("value", ["planted", "a:planted:12", "@/planted/nowhere"])
def test_bad_credentials_are_refused_without_showing_them(value: str) -> None:
    with pytest.raises(SettingError, match="EVERWARM_CREDENTIALS") as caught:
        dispatcher_settings.read({"EVERWARM_CREDENTIALS": value})
    assert "planted" not in str(caught.value)


def test_off_loopback_needs_credentials_or_insecure() -> None:
    with pytest.raises(SettingError, match=r"EVERWARM_HOST=0\.0\.0\.0: .*EVERWARM_CREDENTIALS.*--insecure"):
        dispatcher_settings.read({"EVERWARM_HOST": "0.0.0.0"})
    assert not dispatcher_settings.read({"EVERWARM_HOST": "0.0.0.0", "EVERWARM_INSECURE": "1"}).loopback
    assert dispatcher_settings.read({"EVERWARM_HOST": "::", "EVERWARM_CREDENTIALS": "a:b:000000000001"}).credentials


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [
        ("127.0.0.1", "http://127.0.0.1:4566"),
        ("0.0.0.0", "http://127.0.0.1:4566"),
        ("::1", "http://[::1]:4566"),
        ("localhost", "http://localhost:4566"),
    ],
)
def test_endpoint_follows_the_address(host: str, endpoint: str) -> None:
    assert dispatcher_settings.read({"EVERWARM_HOST": host, "EVERWARM_INSECURE": "1"}).endpoint == endpoint


def test_secrets_among_the_settings_never_show() -> None:
    environ = {
        "EVERWARM_REDIS_URL": "redis://:planted@host:6379/0",
        "EVERWARM_CREDENTIALS": "key:planted:000000000001",
        "EVERWARM_METRICS_TOKEN": "planted",
        "EVERWARM_S3_SECRET_KEY": "planted",
        "EVERWARM_DATABASE_URL": "postgresql://me:planted@host/db",
    }
    found = dispatcher_settings.read(environ)
    assert found.metrics_token == "planted"
    shown = repr(found) + repr(found.credentials) + repr(shared.describe(found, environ))
    assert "planted" not in shown


def test_the_catalog_is_sqlite_in_the_data_directory_unless_told() -> None:
    assert dispatcher_settings.read({"EVERWARM_DATA": "/d"}).database_url == "sqlite:////d/everwarm.db"
    assert dispatcher_settings.read({"EVERWARM_DATABASE_URL": "postgresql://h/d"}).database_url == "postgresql://h/d"


def test_sizes_are_read_with_their_units() -> None:
    assert dispatcher_settings.read({"EVERWARM_LOGS_MAX": "64M"}).logs_max_bytes == 64 << 20
    assert dispatcher_settings.read({"EVERWARM_LOGS_MAX": "2GB"}).logs_max_bytes == 2 << 30
