"""The recursion guard's chain in the X-Ray trace header."""

import hashlib
import re

import pytest

from dispatcher import recursion_guard

A = "arn:aws:lambda:us-east-1:000000000000:function:a"
B = "arn:aws:lambda:us-east-1:000000000000:function:b"
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"


def name_of(arn: str) -> str:
    return hashlib.sha256(arn.encode()).hexdigest()[:8]


def chain_of(header: str) -> str:
    (found,) = re.findall(r"Lineage=([^;]*)", header)
    return str(found)


def calls_until_stopped(*arns: str, header: str = TRACE) -> int:
    """How many invocations run when the functions call each other in turn for ever."""
    for count in range(1000):
        header = recursion_guard.follow(header, arns[count % len(arns)])
        if recursion_guard.is_loop(header, arns[count % len(arns)]):
            return count
    raise AssertionError("nothing stops them")


def test_a_call_that_comes_with_a_trace_keeps_it() -> None:
    assert recursion_guard.follow(TRACE, A) == f"{TRACE};Lineage={name_of(A)}:1"
    again = recursion_guard.follow(recursion_guard.follow(TRACE, A), A)
    assert again == f"{TRACE};Lineage={name_of(A)}:2"
    # The newest stands last.
    assert (
        recursion_guard.follow(recursion_guard.follow(again, B), A) == f"{TRACE};Lineage={name_of(B)}:1|{name_of(A)}:3"
    )


def test_a_call_without_one_begins_a_trace_that_is_not_recorded() -> None:
    new = r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0"
    found = recursion_guard.follow("", A)
    assert re.fullmatch(f"{new};Lineage={name_of(A)}:1", found)
    assert recursion_guard.follow("", A) != found


@pytest.mark.parametrize(
    "header",
    [
        f"Lineage={name_of(A)}:7;{TRACE}",
        f"{TRACE};Lineage={name_of(A)}:7",
        f"Root=1-5759e988-bd862e3fe1be46a994272793;Lineage={name_of(A)}:7;Parent=53995c3f42cd8ad8;Sampled=1",
        f"{TRACE}; Lineage={name_of(A)}:7",
    ],
)
def test_wherever_it_stands_the_other_fields_are_kept(header: str) -> None:
    found = recursion_guard.follow(header, A)
    assert chain_of(found) == f"{name_of(A)}:8"
    assert {field.strip() for field in found.split(";")} == {*TRACE.split(";"), f"Lineage={name_of(A)}:8"}


@pytest.mark.parametrize(
    "header",
    [
        "nonsense",
        "Lineage=",
        "Lineage=;",
        "Lineage",
        ";;;",
        f"{TRACE};Lineage=not-hex:3",
        f"{TRACE};Lineage={name_of(A)}",
        f"{TRACE};Lineage={name_of(A)}:-3",
        f"{TRACE};Lineage={name_of(A)}:x|:|",
        f"{TRACE};MyLineage={name_of(A)}:16",
        "=" * 10_000,
        "\xff\xfe",
    ],
)
def test_a_malformed_chain_begins_anew(header: str) -> None:
    found = recursion_guard.follow(header, A)
    assert chain_of(found.replace("MyLineage", "My")) == f"{name_of(A)}:1"
    assert not recursion_guard.is_loop(found, A)


def test_the_seventeenth_is_a_loop() -> None:
    header = TRACE
    for count in range(1, 17):
        header = recursion_guard.follow(header, A)
        assert chain_of(header) == f"{name_of(A)}:{count}"
        assert not recursion_guard.is_loop(header, A)
    assert recursion_guard.is_loop(recursion_guard.follow(header, A), A)
    assert not recursion_guard.is_loop(recursion_guard.follow(header, B), B), "another one in the same chain is none"


def test_functions_that_call_each_other() -> None:
    assert calls_until_stopped(A) == 16
    assert calls_until_stopped(A, B) == 32
    assert calls_until_stopped(*(f"{A}{number}" for number in range(30))) == 16 * 30


def test_a_wide_chain_forgets_the_oldest_and_stays_short() -> None:
    header = TRACE
    for number in range(200):
        header = recursion_guard.follow(header, f"{A}{number}")
    assert len(chain_of(header).split("|")) == 32
    assert len(header) < 600


def test_a_header_of_any_length_is_followed_by_a_short_one() -> None:
    header = recursion_guard.follow(f"Root=1-{'5' * 300_000};Lineage={name_of(A)}:3", B)
    assert len(header) < 600
    assert chain_of(header) == f"{name_of(A)}:3|{name_of(B)}:1"


def test_a_count_from_a_caller_is_taken_as_it_is() -> None:
    # A function may write anything into its calls; it only stops itself.
    assert recursion_guard.is_loop(f"{TRACE};Lineage={name_of(A)}:99999", A)
    assert not recursion_guard.is_loop(f"{TRACE};Lineage={name_of(A)}:00016", A)
