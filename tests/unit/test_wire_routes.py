"""Routes of the whole API, and what comes of paths that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.wire.errors import AwsError
from dispatcher.wire.model import Operation, operations
from dispatcher.wire.routes import api_routes


@pytest.mark.parametrize("operation", operations().values(), ids=lambda operation: operation.name)
def test_every_operation_is_found(operation: Operation) -> None:
    path = "/" + "/".join("x%2Fy" if segment.startswith("{") else segment for segment in operation.path)
    query = "&".join(f"{name}={value}" for name, value in operation.query_flags)
    for text in (path, path + "/"):
        assert api_routes().match(operation.method, text, query)[0] is operation


@pytest.mark.parametrize(
    "path", ["/", "/2015-03-31", "/2015-03-31/functions/a/b/c", "//", "/2015-03-31/functions/f/../x"]
)
def test_unknown_paths_are_unknown_operations(path: str) -> None:
    with pytest.raises(AwsError) as error:
        api_routes().match("GET", path, "")
    assert (error.value.code, error.value.status) == ("UnknownOperationException", 404)


def test_wrong_method_says_which_there_are() -> None:
    with pytest.raises(AwsError) as error:
        api_routes().match("PATCH", "/2015-03-31/functions/f", "")
    assert error.value.status == 405
    assert "DELETE, GET" in error.value.message


@given(st.text(), st.text(), st.text())
def test_nothing_else_is_ever_raised(method: str, path: str, query: str) -> None:
    try:
        api_routes().match(method, f"/2015-03-31/{path}", query)
    except AwsError as error:
        assert error.status in {404, 405}
