"""Reserved concurrency and the account's settings through boto3."""

from collections.abc import Callable

from tests.integration.test_api_functions import plain
from tests.services.api import ACCOUNT, CODE, REGION, ApiServer, Functions


def test_reserved_concurrency_is_set_read_and_removed(api: Functions) -> None:
    api.create()
    assert plain(dict(api.client.get_function_concurrency(FunctionName="fn"))) == {}
    answer = api.client.put_function_concurrency(FunctionName="fn", ReservedConcurrentExecutions=7)
    assert plain(dict(answer)) == {"ReservedConcurrentExecutions": 7}
    assert api.client.get_function_concurrency(FunctionName="fn")["ReservedConcurrentExecutions"] == 7
    assert api.client.get_function(FunctionName="fn")["Concurrency"] == {"ReservedConcurrentExecutions": 7}

    def reserved() -> object:
        return api.server.call(lambda: api.server.catalog.resolve(api.account, REGION, "fn")).reserved_concurrency

    assert reserved() == 7
    api.client.put_function_concurrency(FunctionName="fn", ReservedConcurrentExecutions=0)
    assert reserved() == 0
    answer2 = api.client.delete_function_concurrency(FunctionName="fn")
    assert answer2["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert reserved() is None
    assert "Concurrency" not in api.client.get_function(FunctionName="fn")


def test_a_minimum_stays_unreserved(api: Functions) -> None:
    for name in ("one", "two"):
        api.create(name, wait=False)
    put = api.client.put_function_concurrency
    put(FunctionName="one", ReservedConcurrentExecutions=600)
    error = api.refused("put_function_concurrency", FunctionName="two", ReservedConcurrentExecutions=301)
    assert error == (
        "InvalidParameterValueException", 400,
        ("Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
        "below its minimum value of [100]."),
    )  # fmt: skip
    put(FunctionName="two", ReservedConcurrentExecutions=300)
    put(FunctionName="one", ReservedConcurrentExecutions=600)
    put(FunctionName="one", ReservedConcurrentExecutions=1)
    limits = api.client.get_account_settings()["AccountLimit"]
    assert limits["UnreservedConcurrentExecutions"] == 699


def test_only_whole_functions_reserve_concurrency(api: Functions) -> None:
    api.create(Publish=True)
    error = api.refused("put_function_concurrency", FunctionName="fn:1", ReservedConcurrentExecutions=1)
    assert error[0] == "InvalidParameterValueException"
    assert error[2].startswith("This operation is permitted on Lambda functions only.")
    error = api.refused("put_function_concurrency", FunctionName="fn", ReservedConcurrentExecutions=-1)
    assert error[0] == "ValidationException"


def test_account_settings_count_code_and_concurrency(api: Functions) -> None:
    empty = api.client.get_account_settings()
    assert plain(dict(empty)) == {
        "AccountLimit": {
            "TotalCodeSize": 80530636800, "CodeSizeUnzipped": 262144000, "CodeSizeZipped": 52428800,
            "ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 1000,
        },
        "AccountUsage": {"TotalCodeSize": 0, "FunctionCount": 0},
    }  # fmt: skip
    api.create("one", Publish=True)
    api.create("two")
    usage = api.client.get_account_settings()["AccountUsage"]
    assert usage == {"TotalCodeSize": 3 * len(CODE), "FunctionCount": 2}


def test_limits_from_the_settings(make_api: Callable[..., ApiServer]) -> None:
    environ = {"LAMBDA_LIMITS_CONCURRENT_EXECUTIONS": "10", "LAMBDA_LIMITS_MINIMUM_UNRESERVED_CONCURRENCY": "4"}
    api = Functions(make_api(environ), ACCOUNT)
    api.create()
    assert api.client.get_account_settings()["AccountLimit"]["ConcurrentExecutions"] == 10
    error = api.refused("put_function_concurrency", FunctionName="fn", ReservedConcurrentExecutions=7)
    assert error[2].endswith("below its minimum value of [4].")
    api.client.put_function_concurrency(FunctionName="fn", ReservedConcurrentExecutions=6)
