"""Bad input on the whole server: each gets a clear error, nothing is lost, and no traceback reaches anybody."""

import http.client
import io
import json
import os
import socket
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.services.commands import Done, everwarm
from tests.services.functions import ROLE, Functions
from tests.services.local import python_runtime
from tests.services.processes import free_port
from tests.services.redis import RedisServer
from tests.services.stack import Stack
from tests.services.waiting import wait_until


@pytest.fixture
def functions(stack: Stack) -> Functions:
    """Functions on the shared stack."""
    return Functions(stack)


def ask(stack: Stack, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    """Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=20)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


# --- requests ---


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"text"', b"null", b"\xff\xfe", b'{"FunctionName": 5}', b'{"FunctionName": "a"', b"[" * 100_000],
)
def test_documents_that_are_none(stack: Stack, body: bytes) -> None:
    status, text = ask(stack, "POST", "/2015-03-31/functions", body)
    assert status == 400
    assert isinstance(json.loads(text), dict)
    assert "Traceback" not in text
    assert 'File "' not in text


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/nothing"), ("PATCH", "/2015-03-31/functions"), ("POST", "/2015-03-31/")],
)
def test_paths_that_are_none(stack: Stack, method: str, path: str) -> None:
    status, text = ask(stack, method, path)
    assert status in {404, 405}
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("path", ["/2015-03-31/event-source-mappings/", "/2018-10-31/layers"])
def test_operations_that_are_not_built_are_named(stack: Stack, path: str) -> None:
    status, text = ask(stack, "GET", path, b"")
    assert status == 501
    assert "does not have the operation" in json.loads(text)["Message" if "Message" in json.loads(text) else "message"]


def archive(build: Callable[[zipfile.ZipFile], None]) -> bytes:
    """A zip built by a function."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("index.py", "handler = lambda event, context: 1")
        build(target)
    return buffer.getvalue()


def _link(name: str, to: str) -> Callable[[zipfile.ZipFile], None]:
    def build(target: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo(name)
        entry.create_system = 3
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        target.writestr(entry, to)

    return build


def _file(name: str, data: bytes = b"x") -> Callable[[zipfile.ZipFile], None]:
    return lambda target: target.writestr(zipfile.ZipInfo(name), data)


ZIPS = {
    "no zip": b"this is no zip",
    "nothing": b"",
    "half a zip": archive(_file("a", b"x" * 1000))[:-30],
    "above": archive(_file("../outside.py")),
    "far above": archive(_file("a/../../../../../../tmp/everwarm-outside")),
    "absolute": archive(_file("/tmp/everwarm-outside")),
    "link out": archive(_link("out", "/etc/passwd")),
    "link above": archive(_link("out", "../../secret")),
    "through a link": archive(lambda target: (_link("d", "/tmp")(target), _file("d/everwarm-outside")(target))[0]),
    "bomb": archive(lambda target: target.writestr("bomb", bytes(300_000_000))),
}


@pytest.mark.parametrize("kind", ZIPS)
def test_zips_that_are_refused(functions: Functions, kind: str) -> None:
    """At create, or by a function that fails with the reason; never unpacked outside, never a broken worker."""
    name = f"zip-{os.getpid()}-{kind.replace(' ', '-')}"
    request: dict[str, Any] = {
        "FunctionName": name, "Runtime": python_runtime(), "Handler": "index.handler", "Role": ROLE,
        "Code": {"ZipFile": ZIPS[kind]},
    }  # fmt: skip
    with pytest.raises(ClientError) as caught:
        functions.client.create_function(**request)
    error = caught.value.response["Error"]
    assert error["Code"] in {"InvalidParameterValueException", "ValidationException", "InvalidZipFileException"}
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] in {400, 502}
    assert "Traceback" not in error["Message"]
    assert functions.refused(name)[1] == 404, "nothing of it is left"
    assert not Path("/tmp/everwarm-outside").exists()


def test_a_bad_update_keeps_the_old_code(functions: Functions) -> None:
    name = functions.python("handler = lambda event, context: 'old'")
    for kind in ("no zip", "above", "link out"):
        with pytest.raises(ClientError):
            functions.client.update_function_code(FunctionName=name, ZipFile=ZIPS[kind])
    assert functions.invoke(name, {}).json == "old"


def test_links_within_are_fine(functions: Functions) -> None:
    data = archive(
        lambda target: (
            _file("real.py", b"handler = lambda e, c: 'linked'")(target),
            _link("via.py", "real.py")(target),
        )[0]
    )
    name = f"zip-{os.getpid()}-within"
    functions.client.create_function(
        FunctionName=name, Runtime=python_runtime(), Handler="via.handler", Role=ROLE, Code={"ZipFile": data}
    )
    functions.settle(name)
    assert functions.invoke(name, {}).json == "linked"


@pytest.mark.parametrize("runtime", ["python9.9", "cobol", "", "../../bin/sh"])
def test_runtimes_that_do_not_exist(functions: Functions, runtime: str) -> None:
    with pytest.raises(ClientError) as caught:
        functions.create({"index.py": "x"}, "index.handler", runtime or "x y", FunctionName=f"runtime-{os.getpid()}")
    assert caught.value.response["Error"]["Code"] in {"InvalidParameterValueException", "ValidationException"}


@pytest.mark.parametrize("runtime", ["dotnet8", "ruby3.3", "java21", "python3.9", "nodejs18.x"])
def test_runtimes_that_this_machine_lacks(make_stack: Callable[..., Stack], functions: Functions, runtime: str) -> None:
    name = functions.create({"index.py": "x", "bootstrap": "x"}, "index.handler", runtime)
    code, status, answer = functions.refused(name, {})
    assert (code, status) == ("InvalidRuntimeException", 502), answer
    assert "docker" in answer["Error"]["Message"]
    assert runtime in answer["Error"]["Message"]
    assert functions.environments(name) == []


@pytest.mark.parametrize("mode", ["docker", "docker-reuse", "teleport"])
def test_modes_that_nobody_serves(functions: Functions, mode: str) -> None:
    try:
        name = functions.create({"index.py": "x"}, "index.handler", Tags={"everwarm:mode": mode})
    except ClientError as error:
        assert mode == "teleport"
        assert "local, docker, docker-reuse" in error.response["Error"]["Message"]
        return
    code, status, answer = functions.refused(name, {})
    assert (code, status) == ("ServiceException", 503)
    assert mode in answer["Error"]["Message"]


# --- starting ---


@pytest.fixture
def environ(stack: Stack, tmp_path: Path) -> dict[str, str]:
    """Settings that would start a dispatcher on the shared stack's Redis."""
    return {
        "EVERWARM_REDIS_URL": stack.redis.url,
        "EVERWARM_DATA": str(tmp_path / "data"),
        "EVERWARM_PORT": str(free_port()),
    }


def refused_start(command: str, environ: dict[str, str], *arguments: str) -> Done:
    """It must end at once, with one clear complaint."""
    done = everwarm(command, *arguments, environ=environ, timeout_s=30)
    assert done.status != 0
    assert "Traceback" not in done.err, done.err
    assert done.err.strip(), "it says why"
    return done


INVALID = [
    ("EVERWARM_PORT", "99999", "from 1 to 65535"),
    ("EVERWARM_DATA", "relative/path", "absolute path"),
    ("LAMBDA_EXECUTOR", "dokcer", "local, docker, docker-reuse"),
    ("LAMBDA_LIMITS_CONCURRENT_EXECUTIONS", "many", "whole number"),
    ("EVERWARM_SYNC_QUEUE_WAIT_S", "-1", "number"),
    ("EVERWARM_LOCAL_UIDS", "0-1000", "user ids"),
    ("EVERWARM_CREDENTIALS", "just-a-key", "key:secret:account"),
    ("EVERWARM_REDIS_URL", "http://redis", "redis://"),
    ("EVERWARM_DATABASE_URL", "mysql://x/y", "postgresql"),
]


@pytest.mark.parametrize(("name", "value", "valid"), INVALID)
@pytest.mark.parametrize("command", ["dispatcher", "up"])
def test_invalid_settings_stop_the_start(
    environ: dict[str, str], command: str, name: str, value: str, valid: str
) -> None:
    done = refused_start(command, {**environ, name: value})
    assert done.status == 2
    assert name in done.err
    assert valid in done.err
    assert value in done.err or name == "EVERWARM_CREDENTIALS" or "URL" in name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EVERWARM_CONCURRENCY", "0"),
        ("LAMBDA_KEEPALIVE_MS", "ten"),
        ("EVERWARM_LOCAL_RUNTIMES", "python"),
        ("DEBUG", "x"),
    ],
)
def test_invalid_settings_stop_a_worker(environ: dict[str, str], name: str, value: str) -> None:
    done = refused_start("worker", {**environ, name: value}, "--mode", "local")
    assert done.status == 2
    assert f"{name}={value}" in done.err


@pytest.mark.parametrize("command", ["dispatcher", "up"])
def test_a_port_in_use(environ: dict[str, str], command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = refused_start(command, {**environ, "EVERWARM_PORT": str(port)})
    assert str(port) in done.err
    assert "in use" in done.err


def test_a_second_dispatcher_on_the_same_sqlite(stack: Stack) -> None:
    done = refused_start("dispatcher", {**stack.environ, "EVERWARM_PORT": str(free_port())})
    assert "PostgreSQL" in done.err
    assert stack.client().list_functions() is not None


@pytest.mark.parametrize("command", ["dispatcher", "worker"])
def test_a_part_without_a_redis_url_does_not_start(environ: dict[str, str], command: str) -> None:
    del environ["EVERWARM_REDIS_URL"]
    done = refused_start(command, environ, *(["--mode", "local"] if command == "worker" else []))
    assert "EVERWARM_REDIS_URL" in done.err


@pytest.mark.parametrize("command", ["dispatcher", "worker"])
def test_a_redis_that_is_not_there(environ: dict[str, str], command: str) -> None:
    port = free_port()
    environ["EVERWARM_REDIS_URL"] = f"redis://:secret-password@127.0.0.1:{port}/0"
    done = refused_start(command, environ, *(["--mode", "local"] if command == "worker" else []))
    assert str(port) in done.err
    assert "secret-password" not in done.err


def test_a_redis_with_another_password(environ: dict[str, str], stack: Stack) -> None:
    user, _, place = stack.redis.url.rpartition("@")
    environ["EVERWARM_REDIS_URL"] = f"unix://:wrong-password@{place}"
    done = refused_start("dispatcher", environ)
    assert "password" in done.err.lower()
    assert "wrong-password" not in done.err
    assert user.rpartition(":")[2] not in done.err


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for this test alone."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [("maxmemory-policy", "allkeys-lru", "noeviction"), ("maxmemory", "100mb", "256")],
)
@pytest.mark.parametrize("command", ["dispatcher", "worker"])
def test_a_redis_that_would_lose_calls(
    environ: dict[str, str], redis: RedisServer, command: str, option: str, value: str, word: str
) -> None:
    redis.client.config_set(option, value)
    environ["EVERWARM_REDIS_URL"] = redis.url
    done = refused_start(command, environ, *(["--mode", "local"] if command == "worker" else []))
    assert word in done.err


def test_a_data_directory_that_is_a_file(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    done = refused_start("dispatcher", environ)
    assert str(tmp_path / "data") in done.err


def test_a_database_that_is_none(environ: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "everwarm.db").write_bytes(b"this is no database" * 1000)
    done = refused_start("dispatcher", environ)
    assert "everwarm.db" in done.err


# --- Redis that goes ---


def test_redis_gone_is_503_at_once_and_recovers(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack()
    functions = Functions(stack)
    name = functions.sample("echo")
    assert functions.invoke(name, 1).body == b"1"
    stack.redis.kill9()
    code, status, answer = functions.refused(name, 1)
    assert (code, status) == ("ServiceException", 503)
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-errortype"] == "ServiceException"
    assert functions.client.get_function(FunctionName=name)["Configuration"]["State"] == "Active"
    assert stack.get("/_everwarm/live")[0] == 200
    assert stack.get("/_everwarm/ready")[0] == 503
    stack.redis.start()

    def answers() -> bool:
        try:
            return functions.invoke(name, 2).body == b"2"
        except ClientError:
            return False

    wait_until("it serves again", answers, 5)
