"""Functions through boto3: create, get, list, update, delete."""

import base64
import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from tests.services.api import ACCOUNT, CODE, REGION, ROLE, ApiServer, Functions, zip_of

#: What AWS answers for a plain Python function while it is Pending; recorded from AWS.
CREATED = {
    "Architectures", "CodeSha256", "CodeSize", "Description", "EphemeralStorage", "FunctionArn", "FunctionName", "Handler",
    "LastModified", "LoggingConfig", "MemorySize", "PackageType", "RevisionId", "Role", "Runtime", "RuntimeVersionConfig",
    "SnapStart", "State", "StateReason", "StateReasonCode", "Timeout", "TracingConfig", "Version",
}  # fmt: skip
READY = CREATED - {"StateReason", "StateReasonCode"} | {"LastUpdateStatus"}
CHANGING = READY | {"LastUpdateStatusReason", "LastUpdateStatusReasonCode"}
LISTED = CREATED - {"State", "StateReason", "StateReasonCode", "RuntimeVersionConfig"}
OTHER_CODE = zip_of(handler__py="def handler(event, context): return 2\n")


def sha256(code: bytes) -> str:
    return base64.b64encode(hashlib.sha256(code).digest()).decode()


def plain(answer: object) -> dict[str, object]:
    assert isinstance(answer, dict)
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


def test_a_function_created_with_defaults_has_awss_members(api: Functions) -> None:
    answer = api.create(wait=False)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert plain(answer).keys() == CREATED
    assert answer["State"] == "Pending"
    assert answer["StateReason"] == "The function is being created."
    assert answer["StateReasonCode"] == "Creating"
    assert answer["FunctionArn"] == api.arn("fn")
    assert answer["CodeSha256"] == sha256(CODE)
    assert answer["CodeSize"] == len(CODE)
    assert (answer["Timeout"], answer["MemorySize"], answer["Description"]) == (3, 128, "")
    assert answer["Architectures"] == ["x86_64"]
    assert answer["EphemeralStorage"] == {"Size": 512}
    assert answer["TracingConfig"] == {"Mode": "PassThrough"}
    assert answer["SnapStart"] == {"ApplyOn": "None", "OptimizationStatus": "Off"}
    assert answer["LoggingConfig"] == {"LogFormat": "Text", "LogGroup": "/aws/lambda/fn"}
    assert answer["PackageType"] == "Zip"
    assert answer["Version"] == "$LATEST"
    api.wait_active()
    ready = api.client.get_function_configuration(FunctionName="fn")
    assert plain(ready).keys() == READY
    assert ready["State"] == "Active"
    assert ready["LastUpdateStatus"] == "Successful"
    assert ready["RevisionId"] != answer["RevisionId"]


def test_a_function_created_with_everything_keeps_everything(api: Functions) -> None:
    answer = api.create(
        "everything",
        Description="d", Timeout=900, MemorySize=10240, Architectures=["arm64"], EphemeralStorage={"Size": 10240},
        Environment={"Variables": {"KEY_B": "ü", "KEY_A": "1"}}, TracingConfig={"Mode": "Active"},
        LoggingConfig={"LogFormat": "JSON", "LogGroup": "/mine"}, Tags={"team": "a", "everwarm:mode": "local"},
        DeadLetterConfig={"TargetArn": "arn:aws:sqs:eu-central-1:111111111111:dlq"},
        Layers=["arn:aws:lambda:eu-central-1:111111111111:layer:one:3"], SnapStart={"ApplyOn": "PublishedVersions"},
        VpcConfig={"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]},
        KMSKeyArn="arn:aws:kms:eu-central-1:111111111111:key/k",
    )  # fmt: skip
    assert answer["Environment"] == {"Variables": {"KEY_A": "1", "KEY_B": "ü"}}
    assert answer["LoggingConfig"] == {
        "LogFormat": "JSON", "LogGroup": "/mine", "ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO",
    }  # fmt: skip
    assert answer["Layers"] == [{"Arn": "arn:aws:lambda:eu-central-1:111111111111:layer:one:3", "CodeSize": 0}]
    assert answer["DeadLetterConfig"] == {"TargetArn": "arn:aws:sqs:eu-central-1:111111111111:dlq"}
    assert answer["VpcConfig"]["SubnetIds"] == ["subnet-1"]
    assert answer["Timeout"] == 900
    assert answer["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "Off"}
    published = api.client.publish_version(FunctionName="everything")
    assert published["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
    assert plain(dict(api.client.publish_version(FunctionName="everything"))) == plain(dict(published))
    found = api.client.get_function(FunctionName="everything")
    assert found["Tags"] == {"team": "a", "everwarm:mode": "local"}
    assert found["Configuration"]["Architectures"] == ["arm64"]


def test_create_and_publish_answers_version_1_under_the_plain_arn(api: Functions) -> None:
    answer = api.create(Publish=True)
    assert (answer["Version"], answer["FunctionArn"]) == ("1", api.arn("fn"))
    assert api.client.get_function_configuration(FunctionName="fn", Qualifier="1")["State"] == "Active"


def test_create_twice_is_a_conflict(api: Functions) -> None:
    api.create()
    error = api.refused(
        "create_function",
        FunctionName="fn", Runtime="python3.12", Role=ROLE, Handler="h.h", Code={"ZipFile": CODE},
    )  # fmt: skip
    assert error == ("ResourceConflictException", 409, "Function already exist: fn")


_LONG = "a" * 65


@pytest.mark.parametrize(
    ("members", "code", "message"),
    [
        ({"Runtime": "python1.0"}, "InvalidParameterValueException", "Value python1.0 at 'runtime' failed to satisfy"),
        ({"Role": "nobody"}, "ValidationException", "at 'role' failed to satisfy constraint"),
        ({"Timeout": 901}, "ValidationException", "Value '901' at 'timeout' failed to satisfy constraint: Member must have"),
        ({"MemorySize": 127}, "ValidationException", "at 'memorySize' failed to satisfy constraint"),
        ({"MemorySize": 10241}, "ValidationException", "at 'memorySize' failed to satisfy constraint"),
        ({"EphemeralStorage": {"Size": 10241}}, "ValidationException", "at 'ephemeralStorage.size' failed"),
        ({"Handler": None}, "InvalidParameterValueException", "Runtime and Handler are mandatory parameters for functions"),
        ({"Runtime": None}, "InvalidParameterValueException", "Runtime and Handler are mandatory parameters for functions"),
        ({"Code": {}}, "InvalidParameterValueException", "Please provide a source for function code."),
        (
            {"Code": {"ZipFile": CODE, "S3Bucket": "bucket", "S3Key": "k"}},
            "InvalidParameterValueException",
            "Please do not provide other FunctionCode parameters when providing a ZipFile.",
        ),
        (
            {"Code": {"ZipFile": b"no zip"}},
            "InvalidParameterValueException",
            "Could not unzip uploaded file. Please check your file, then try to upload again.",
        ),
        ({"Code": {"ZipFile": zip_of()}}, "InvalidParameterValueException", "Uploaded file must be a non-empty zip"),
        ({"Code": {"S3Bucket": "bucket", "S3Key": "k"}}, "InvalidParameterValueException", "EVERWARM_S3_ENDPOINT"),
        ({"Tags": {"everwarm:mode": "fast"}}, "InvalidParameterValueException", "local, docker, docker-reuse"),
        ({"Tags": {"aws:x": "y"}}, "InvalidParameterValueException", "aws: prefixed tag key names are not allowed"),
        ({"Tags": {str(n): "" for n in range(51)}}, "InvalidParameterValueException", "Number of tags exceeds"),
        (
            {"Environment": {"Variables": {"AWS_REGION": "x", "KEY": "v", "LAMBDA_TASK_ROOT": "/"}}},
            "InvalidParameterValueException",
            "Reserved keys used in this request: AWS_REGION, LAMBDA_TASK_ROOT",
        ),
        (
            {"Environment": {"Variables": {"KEY": "v" * 4096}}},
            "InvalidParameterValueException",
            "exceeded the 4KB limit. String measured: {\"KEY\":\"vvv",
        ),
        (
            {"Layers": [f"arn:aws:lambda:eu-central-1:111111111111:layer:l{n}:1" for n in range(6)]},
            "InvalidParameterValueException",
            "Cannot reference more than 5 layers.",
        ),
        ({"FunctionName": _LONG}, "", "failed to satisfy constraint: Member must have length less than or equal to 64"),
        ({"FunctionName": "fn:1"}, "ValidationException", "at 'functionName' failed to satisfy constraint"),
        (
            {"FunctionName": "arn:aws:lambda:eu-central-1:999999999999:function:fn"},
            "AccessDeniedException",
            "is not authorized to perform: lambda:CreateFunction",
        ),
        (
            {"Runtime": "provided.al2023", "SnapStart": {"ApplyOn": "PublishedVersions"}},
            "InvalidParameterValueException",
            "provided.al2023 is not supported for SnapStart enabled functions.",
        ),
        ({"DurableConfig": {"ExecutionTimeout": 9}}, "InvalidParameterValueException", "does not have DurableConfig yet"),
        (
            {"CodeSigningConfigArn": "arn:aws:lambda:eu-central-1:111111111111:code-signing-config:csc-12345678901234567"},
            "CodeSigningConfigNotFoundException",
            "The code signing configuration cannot be found.",
        ),
        ({"PackageType": "Image"}, "InvalidParameterValueException", "container images"),
    ],
)  # fmt: skip
def test_create_function_refuses_in_awss_words(
    api: Functions, members: dict[str, object], code: str, message: str
) -> None:
    request = {
        "FunctionName": "fn", "Runtime": "python3.12", "Role": ROLE, "Handler": "handler.handler",
        "Code": {"ZipFile": CODE}, **members,
    }  # fmt: skip
    error = api.refused("create_function", **{key: value for key, value in request.items() if value is not None})
    assert message in error[2]
    assert error[0] == code or not code
    assert api.client.list_functions()["Functions"] == []


def test_zip_over_the_limit(make_api: Callable[..., ApiServer]) -> None:
    api = Functions(
        make_api({"LAMBDA_LIMITS_CODE_SIZE_ZIPPED": "100", "LAMBDA_LIMITS_CODE_SIZE_UNZIPPED": "1000"}), ACCOUNT
    )
    request = {"FunctionName": "fn", "Runtime": "python3.12", "Role": ROLE, "Handler": "h.h"}
    status = api.refused("create_function", **request, Code={"ZipFile": CODE})[1]
    assert status == 413
    big = Functions(make_api({"LAMBDA_LIMITS_CODE_SIZE_UNZIPPED": "1000"}), ACCOUNT)
    error = big.refused("create_function", **request, Code={"ZipFile": zip_of(a__py="x" * 1001)})
    assert error == ("InvalidParameterValueException", 400, "Unzipped size must be smaller than 1000 bytes")


def test_image_functions_are_kept_and_say_why_they_fail(api: Functions) -> None:
    api.create(
        "image", wait=False, Runtime=None, Handler=None, PackageType="Image", Code={"ImageUri": "repo/image:1"},
        ImageConfig={"Command": ["a.b"]},
    )  # fmt: skip
    waiter = api.client.get_waiter("function_active_v2")
    with pytest.raises(Exception, match="terminal failure"):
        waiter.wait(FunctionName="image", WaiterConfig={"Delay": 0.05, "MaxAttempts": 200})  # type: ignore[typeddict-item]
    found = api.client.get_function(FunctionName="image")
    assert found["Configuration"]["State"] == "Failed"
    assert found["Configuration"]["StateReasonCode"] == "InvalidConfiguration"
    assert "docker" in found["Configuration"]["StateReason"]
    assert found["Configuration"]["ImageConfigResponse"] == {"ImageConfig": {"Command": ["a.b"]}}
    assert found["Code"]["ImageUri"] == "repo/image:1"
    assert "Runtime" not in found["Configuration"]


def test_synchronous_create_answers_active(make_api: Callable[..., ApiServer]) -> None:
    api = Functions(make_api({"LAMBDA_SYNCHRONOUS_CREATE": "1"}), ACCOUNT)
    assert api.create(wait=False)["State"] == "Active"


def test_get_downloads_the_code(api: Functions) -> None:
    api.create()
    found = api.client.get_function(FunctionName="fn")
    assert plain(found).keys() == {"Configuration", "Code"}
    assert found["Code"]["RepositoryType"] == "S3"
    location = found["Code"]["Location"]
    with urllib.request.urlopen(location) as answer:
        assert answer.read() == CODE
    for broken in (location[:-1] + "0", location.replace("expires=1", "expires=2"), location.split("?", maxsplit=1)[0]):
        if broken != location:
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(broken)


@pytest.mark.parametrize("form", ["fn", "fn:{q}", "{a}:function:fn:{q}", "arn:aws:lambda:{r}:{a}:function:fn:{q}"])
def test_every_form_of_name(api: Functions, form: str) -> None:
    api.create(Publish=True)
    name = form.format(q="1", a=api.account, r=REGION)
    version = "$LATEST" if form == "fn" else "1"
    found = api.client.get_function_configuration(FunctionName=name)
    assert found["Version"] == version
    assert found["FunctionArn"] == api.arn("fn", "" if form == "fn" else "1")


def test_qualifiers_choose_the_version(api: Functions) -> None:
    api.create()
    latest = api.client.get_function(FunctionName="fn", Qualifier="$LATEST")["Configuration"]
    assert latest["FunctionArn"] == api.arn("fn", "$LATEST")
    for qualifier in ("9", "live", "9" * 40):
        error = api.refused("get_function", FunctionName="fn", Qualifier=qualifier)
        assert error == ("ResourceNotFoundException", 404, f"Function not found: {api.arn('fn', qualifier)}")
    error = api.refused("get_function", FunctionName="fn:1", Qualifier="2")
    assert error[2] == "The derived qualifier from the function name does not match the specified qualifier."


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        ("get_function", {}),
        ("get_function_configuration", {}),
        ("update_function_configuration", {"Timeout": 5}),
        ("update_function_code", {"ZipFile": CODE}),
        ("delete_function", {}),
        ("publish_version", {}),
        ("list_versions_by_function", {}),
        ("list_aliases", {}),
        ("get_alias", {"Name": "a"}),
        ("update_alias", {"Name": "a"}),
        ("delete_alias", {"Name": "a"}),
        ("get_function_concurrency", {}),
        ("delete_function_concurrency", {}),
        ("add_permission", {"StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*"}),
        ("get_policy", {}),
    ],
)
def test_an_unknown_function_is_named_by_every_operation(
    api: Functions, operation: str, members: dict[str, object]
) -> None:
    error = api.refused(operation, FunctionName="none", **members)
    assert error == ("ResourceNotFoundException", 404, f"Function not found: {api.arn('none')}")


@pytest.mark.parametrize(
    ("operation", "members", "qualifier"),
    [
        ("create_alias", {"Name": "a", "FunctionVersion": "1"}, "1"),
        ("put_function_concurrency", {"ReservedConcurrentExecutions": 1}, "$LATEST"),
    ],
)
def test_unknown_function_where_aws_shows_a_qualifier(
    api: Functions, operation: str, members: dict[str, object], qualifier: str
) -> None:
    error = api.refused(operation, FunctionName="none", **members)
    assert error == ("ResourceNotFoundException", 404, f"Function not found: {api.arn('none', qualifier)}")


def test_another_region_is_out_of_reach(api: Functions) -> None:
    error = api.refused("get_function", FunctionName="arn:aws:lambda:us-west-2:111111111111:function:fn")
    assert error == (
        "ResourceNotFoundException",
        404,
        f"Functions from 'us-west-2' are not reachable in this region ('{REGION}')",
    )


def test_functions_are_listed_page_by_page(api: Functions) -> None:
    names = [f"fn-{number:02}" for number in range(7)]
    for name in reversed(names):
        api.create(name, wait=False)
    first = api.client.list_functions(MaxItems=3)
    assert [found["FunctionName"] for found in first["Functions"]] == names[:3]
    assert first["Functions"][0].keys() == LISTED
    api.client.delete_function(FunctionName=names[2])
    second = api.client.list_functions(MaxItems=3, Marker=first["NextMarker"])
    assert [found["FunctionName"] for found in second["Functions"]] == names[3:6]
    paginator = api.client.get_paginator("list_functions")
    pages = paginator.paginate(PaginationConfig={"PageSize": 2})
    assert [found["FunctionName"] for page in pages for found in page["Functions"]] == names[:2] + names[3:]
    assert "NextMarker" not in api.client.list_functions()
    for marker in (
        "what",
        "WzFd",
        "WyJhIl0=",
        "WyJhIiwgIjEiXQ==",
        "WyJhIiwgOTk5OTk5OTk5OTk5OV0=",
        "WyJhXHUwMDAwIiwgMV0=",
    ):
        assert api.refused("list_functions", Marker=marker)[2] == "Invalid Marker"


def test_list_is_at_most_50_long(api: Functions) -> None:
    for number in range(51):
        api.create(f"fn-{number:02}", wait=False)
    page = api.client.list_functions(MaxItems=10000)
    assert len(page["Functions"]) == 50
    assert len(api.client.list_functions(Marker=page["NextMarker"])["Functions"]) == 1


def test_all_versions_are_listed_when_asked_for(api: Functions) -> None:
    for name in ("b", "a"):
        api.create(name, Publish=True)
    found = api.client.list_functions(FunctionVersion="ALL")["Functions"]
    assert [each["FunctionArn"] for each in found] == [
        api.arn("a", "$LATEST"), api.arn("a", "1"), api.arn("b", "$LATEST"), api.arn("b", "1"),
    ]  # fmt: skip


def test_accounts_and_regions_do_not_see_each_other(api: Functions) -> None:
    api.create()
    for other in (api.server.client("888888888888"), api.server.client(api.account, "us-west-2")):
        assert other.list_functions()["Functions"] == []
        with pytest.raises(other.exceptions.ResourceNotFoundException):
            other.get_function(FunctionName="fn")
    stranger = Functions(api.server, "888888888888")
    assert stranger.refused("get_function", FunctionName=api.arn("fn"))[:2] == ("AccessDeniedException", 403)


def test_update_configuration_is_partial(api: Functions) -> None:
    api.create(
        Description="before", Environment={"Variables": {"KEY_A": "1"}}, Timeout=9,
        DeadLetterConfig={"TargetArn": "arn:aws:sqs:eu-central-1:111111111111:dlq"},
        Layers=["arn:aws:lambda:eu-central-1:111111111111:layer:one:3"],
    )  # fmt: skip
    before = api.client.get_function_configuration(FunctionName="fn")
    answer = api.client.update_function_configuration(FunctionName="fn", MemorySize=256)
    assert plain(answer).keys() == CHANGING | {"Environment", "DeadLetterConfig", "Layers"}
    assert (answer["LastUpdateStatus"], answer["LastUpdateStatusReasonCode"]) == ("InProgress", "Creating")
    assert answer["State"] == "Active"
    assert (answer["MemorySize"], answer["Timeout"], answer["Description"]) == (256, 9, "before")
    api.wait_updated()
    after = api.client.get_function_configuration(FunctionName="fn")
    assert after["LastUpdateStatus"] == "Successful"
    assert len({before["RevisionId"], answer["RevisionId"], after["RevisionId"]}) == 3
    assert after["CodeSha256"] == before["CodeSha256"]
    cleared = api.client.update_function_configuration(
        FunctionName="fn", Description="", Environment={}, DeadLetterConfig={"TargetArn": ""}, Layers=[],
        LoggingConfig={"LogFormat": "JSON"}, TracingConfig={"Mode": "Active"},
    )  # fmt: skip
    assert cleared["Description"] == ""
    assert cleared["Environment"] == {"Variables": {}}
    assert cleared.keys().isdisjoint({"DeadLetterConfig", "Layers"})
    assert cleared["LoggingConfig"]["ApplicationLogLevel"] == "INFO"
    api.wait_updated()
    text = api.client.update_function_configuration(FunctionName="fn", LoggingConfig={"LogFormat": "Text"})
    assert text["LoggingConfig"] == {"LogFormat": "Text", "LogGroup": "/aws/lambda/fn"}


def test_updated_code_has_its_digest_and_size(api: Functions) -> None:
    api.create()
    answer = api.client.update_function_code(FunctionName="fn", ZipFile=OTHER_CODE, Architectures=["arm64"])
    assert plain(answer).keys() == CHANGING
    assert (answer["CodeSha256"], answer["CodeSize"]) == (sha256(OTHER_CODE), len(OTHER_CODE))
    assert answer["Architectures"] == ["arm64"]
    api.wait_updated()
    with urllib.request.urlopen(api.client.get_function(FunctionName="fn")["Code"]["Location"]) as found:
        assert found.read() == OTHER_CODE
    published = api.client.update_function_code(FunctionName="fn", ZipFile=CODE, Publish=True)
    assert (published["Version"], published["FunctionArn"]) == ("1", api.arn("fn", "1"))


def test_update_code_dry_run_changes_nothing(api: Functions) -> None:
    api.create()
    before = api.client.get_function_configuration(FunctionName="fn")
    answer = api.client.update_function_code(FunctionName="fn", ZipFile=OTHER_CODE, DryRun=True)
    assert answer["CodeSha256"] == sha256(OTHER_CODE)
    assert plain(api.client.get_function_configuration(FunctionName="fn")) == plain(before)
    error = api.refused("update_function_code", FunctionName="fn", ZipFile=b"no zip", DryRun=True)
    assert error[0] == "InvalidParameterValueException"


def test_a_stale_revision_id_is_refused(api: Functions) -> None:
    api.create()
    stale = (
        "PreconditionFailedException", 412,
        ("The Revision Id provided does not match the latest Revision Id. "
        "Call the GetFunction/GetAlias API to retrieve the latest Revision Id"),
    )  # fmt: skip
    old = api.revision()
    api.client.update_function_configuration(FunctionName="fn", Timeout=4, RevisionId=old)
    api.wait_updated()
    for operation, members in (
        ("update_function_configuration", {"Timeout": 5}), ("update_function_code", {"ZipFile": OTHER_CODE}),
        ("publish_version", {}),
    ):  # fmt: skip
        assert api.refused(operation, FunctionName="fn", RevisionId=old, **members) == stale
    assert api.client.get_function_configuration(FunctionName="fn")["Timeout"] == 4


def test_update_refuses_in_awss_words(api: Functions) -> None:
    api.create()
    error = api.refused(
        "update_function_configuration", FunctionName="fn", Environment={"Variables": {"AWS_REGION": "x"}}
    )
    assert "Reserved keys used in this request: AWS_REGION" in error[2]
    error = api.refused("update_function_configuration", FunctionName="fn", Timeout=1000)
    assert error[:2] == ("ValidationException", 400)
    error = api.refused("update_function_code", FunctionName="fn", ImageUri="repo/image:1")
    assert error[2] == "Please don't provide ImageUri when updating a function with packageType Zip."
    assert api.refused("update_function_code", FunctionName="fn")[2] == "Please provide a source for function code."


def test_a_deleted_function_is_gone_with_its_versions(api: Functions) -> None:
    api.create(Publish=True)
    assert api.client.delete_function(FunctionName="fn")["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert api.client.list_functions(FunctionVersion="ALL")["Functions"] == []
    assert api.create()["Version"] == "$LATEST"
    assert api.client.publish_version(FunctionName="fn")["Version"] == "1"
