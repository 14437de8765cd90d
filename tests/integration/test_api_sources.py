"""Code from S3 and from directories of the host, through boto3."""

import base64
import hashlib
import io
import os
import socket
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dispatcher.code import s3
from tests.services.api import ACCOUNT, CODE, REGION, ROLE, ApiServer, Functions
from tests.services.processes import free_port
from tests.services.s3 import S3Server

REQUEST = {"FunctionName": "fn", "Runtime": "python3.12", "Role": ROLE, "Handler": "handler.handler"}
Make = Callable[..., ApiServer]


def incompressible_zip(size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("handler.py", os.urandom(size))
    return buffer.getvalue()


@pytest.fixture
def with_s3(s3_server: S3Server, make_api: Make) -> Functions:
    server = make_api({"EVERWARM_S3_ENDPOINT": s3_server.endpoint, "LAMBDA_LIMITS_CODE_SIZE_ZIPPED": "5000"})
    return Functions(server, ACCOUNT)


def test_code_is_fetched_from_s3(with_s3: Functions, s3_server: S3Server) -> None:
    s3_server.client.create_bucket(Bucket="code")
    s3_server.client.put_bucket_versioning(Bucket="code", VersioningConfiguration={"Status": "Enabled"})
    old = s3_server.client.put_object(Bucket="code", Key="a/fn.zip", Body=CODE)["VersionId"]
    newer = incompressible_zip(10_000)  # over the limit of direct uploads, which is not that of S3
    s3_server.client.put_object(Bucket="code", Key="a/fn.zip", Body=newer)
    answer = with_s3.create(Code={"S3Bucket": "code", "S3Key": "a/fn.zip"})
    assert answer["CodeSha256"] == base64.b64encode(hashlib.sha256(newer).digest()).decode()
    assert answer["CodeSize"] == len(newer)
    with_s3.client.update_function_code(FunctionName="fn", S3Bucket="code", S3Key="a/fn.zip", S3ObjectVersion=old)
    with_s3.wait_updated()
    with urllib.request.urlopen(with_s3.client.get_function(FunctionName="fn")["Code"]["Location"]) as found:
        assert found.read() == CODE


def test_missing_objects_in_the_words_of_aws(with_s3: Functions, s3_server: S3Server) -> None:
    error = with_s3.refused("create_function", **REQUEST, Code={"S3Bucket": "no-such-bucket", "S3Key": "k"})
    assert error == (
        "InvalidParameterValueException", 400,
        "Error occurred while GetObject. S3 Error Code: NoSuchBucket. S3 Error Message: The specified bucket does not exist",
    )  # fmt: skip
    s3_server.client.create_bucket(Bucket="empty")
    error = with_s3.refused("create_function", **REQUEST, Code={"S3Bucket": "empty", "S3Key": "k"})
    assert error == (
        "InvalidParameterValueException", 400,
        "Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist.",
    )  # fmt: skip
    s3_server.client.put_object(Bucket="empty", Key="k", Body=b"no zip")
    error = with_s3.refused("create_function", **REQUEST, Code={"S3Bucket": "empty", "S3Key": "k"})
    assert error[2] == "Could not unzip uploaded file. Please check your file, then try to upload again."


def test_s3_that_does_not_answer(make_api: Make) -> None:
    api = Functions(make_api({"EVERWARM_S3_ENDPOINT": f"http://127.0.0.1:{free_port()}"}), ACCOUNT)
    error = api.refused("create_function", **REQUEST, Code={"S3Bucket": "bucket", "S3Key": "k"})
    assert error[:2] == ("InvalidParameterValueException", 400)
    assert "S3 does not answer" in error[2]


def test_ambient_profiles_are_not_read(with_s3: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "none-such")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ambient")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ambient")
    s3._own_client.cache_clear()
    client = s3._client(with_s3.server.settings)
    assert client._request_signer._credentials.access_key == "test"


def test_a_hot_reload_directory_may_be_the_code(make_api: Make, tmp_path: Path) -> None:
    code = tmp_path / "root" / "code"
    code.mkdir(parents=True)
    (tmp_path / "link").symlink_to(code)
    api = Functions(make_api({"EVERWARM_HOT_RELOAD_ROOTS": str(tmp_path / "root")}), ACCOUNT)
    for bucket, key in (("hot-reload", str(code)), ("__local__", str(tmp_path / "link"))):
        answer = api.create(bucket.strip("_"), Code={"S3Bucket": bucket, "S3Key": key})
        assert answer["CodeSha256"] == base64.b64encode(hashlib.sha256(bytes(code)).digest()).decode()
        assert answer["CodeSize"] == 0
    assert api.client.get_function(FunctionName="local")["Code"]["Location"] == f"file://{code}"
    target = api.server.call(lambda: api.server.catalog.resolve(ACCOUNT, REGION, "local"))
    assert (target.spec.hot_reload_path, target.spec.code_sha256) == (str(code), "")
    assert list(code.iterdir()) == []


def test_hot_reload_refuses_directories_outside_its_roots(make_api: Make, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("root/ok", "root/with-socket/deep", "root/to-socket", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (root / "file").touch()
    (root / "escape").symlink_to(tmp_path / "outside")
    with socket.socket(socket.AF_UNIX) as listener:
        address = os.path.relpath(root / "with-socket/deep/s")
        listener.bind(address)
        (root / "to-socket/link").symlink_to(root / "with-socket/deep/s")
        api = Functions(make_api({"EVERWARM_HOT_RELOAD_ROOTS": str(root)}), ACCOUNT)
        for key, message in (
            ("relative", "must be an absolute path"),
            (str(root / "none"), "does not exist"),
            (str(root / "file"), "is not a directory"),
            (str(root / "with-socket/deep/s"), "is not a directory"),
            (str(tmp_path / "outside"), "is not below EVERWARM_HOT_RELOAD_ROOTS"),
            (str(root / "ok/../../outside"), "is not below EVERWARM_HOT_RELOAD_ROOTS"),
            (str(root / "escape"), "is not below EVERWARM_HOT_RELOAD_ROOTS"),
            (str(root / "with-socket"), "is a socket"),
            (str(root / "to-socket"), "is a socket"),
        ):
            error = api.refused("create_function", **REQUEST, Code={"S3Bucket": "hot-reload", "S3Key": key})
            assert error[:2] == ("InvalidParameterValueException", 400)
            assert message in error[2]


def test_hot_reload_is_off_without_roots(make_api: Make, tmp_path: Path) -> None:
    api = Functions(make_api({"EVERWARM_HOT_RELOAD_ROOTS": ":"}), ACCOUNT)
    error = api.refused("create_function", **REQUEST, Code={"S3Bucket": "hot-reload", "S3Key": str(tmp_path)})
    assert error[2].startswith("Hot reload is off")
