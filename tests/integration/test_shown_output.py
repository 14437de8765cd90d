"""LAMBDA_TRUNCATE_STDOUT: what of functions' output is repeated in the server's own log, and when."""

from collections.abc import Callable

from tests.services.functions import Functions
from tests.services.stack import Stack

PRINTS = "def handler(event, context):\n    print('y' * 3000 + 'z' * 100)\n"


def test_debug_logging_shows_the_end(make_stack: Callable[..., Stack]) -> None:
    functions = Functions(make_stack(DEBUG="1", LAMBDA_TRUNCATE_STDOUT="1000"))
    functions.invoke(functions.python(PRINTS), {})
    text = functions.stack.log_text()
    assert text.count("z" * 100) == 1
    assert 500 < text.count("y") < 1000
    assert "REPORT RequestId" in text


def test_otherwise_nothing_is_shown(make_stack: Callable[..., Stack]) -> None:
    functions = Functions(make_stack())
    functions.invoke(functions.python(PRINTS), {})
    assert "zzz" not in functions.stack.log_text()
