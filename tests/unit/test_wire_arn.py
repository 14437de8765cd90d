"""Names and ARNs of functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.wire.arn import FunctionName, function_arn, parse_function_name
from dispatcher.wire.errors import AwsError

ACCOUNT, REGION = "000000000000", "eu-west-1"
names = st.from_regex(r"[a-zA-Z0-9-_]{1,64}", fullmatch=True)
qualifiers = st.one_of(st.none(), st.just("$LATEST"), st.from_regex(r"[a-zA-Z0-9-_]{1,128}", fullmatch=True))
accounts = st.from_regex(r"[0-9]{12}", fullmatch=True).filter(str.isascii)


def suffix(qualifier: str | None) -> str:
    return "" if qualifier is None else f":{qualifier}"


@given(names, qualifiers, accounts)
def test_every_form_gives_the_same_parts(name: str, qualifier: str | None, account: str) -> None:
    wanted = FunctionName(account, REGION, name, qualifier)
    for text in (
        f"{account}:function:{name}{suffix(qualifier)}",
        f"arn:aws:lambda:{REGION}:{account}:function:{name}{suffix(qualifier)}",
        f"{REGION}:{account}:function:{name}{suffix(qualifier)}",
    ):
        assert parse_function_name(text, ACCOUNT, REGION) == wanted


@given(names.filter(lambda name: name != "function"), qualifiers)
def test_what_is_left_out_is_the_callers(name: str, qualifier: str | None) -> None:
    wanted = FunctionName(ACCOUNT, REGION, name, qualifier)
    assert parse_function_name(f"{name}{suffix(qualifier)}", ACCOUNT, REGION) == wanted
    assert parse_function_name(f"function:{name}{suffix(qualifier)}", ACCOUNT, REGION) == wanted


@given(names, qualifiers, accounts)
def test_an_arn_is_parsed_to_what_made_it(name: str, qualifier: str | None, account: str) -> None:
    arn = function_arn(account, REGION, name, qualifier)
    assert parse_function_name(arn, ACCOUNT, REGION).arn == arn


@given(st.text(max_size=80))
def test_anything_else_is_a_validation_error(text: str) -> None:
    try:
        parse_function_name(text, ACCOUNT, REGION)
    except AwsError as error:
        assert error.code in {"ValidationException", "ResourceNotFoundException"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        "a:b:c",
        "arn:aws:lambda",
        "arn:aws:s3:eu-west-1:123456789012:function:f",
        "arn:aws:lambda:eu-west-1:123456789012:layer:f",
        "arn:aws:lambda:eu-west-1:12345678901:function:f",
        "arn:aws:lambda:eu-west-1:123456789012:function:f:1:2",
        "arn:aws:lambda:eu-west-1:123456789012:function:f\n",
    ],
)
def test_a_malformed_name_is_refused(text: str) -> None:
    with pytest.raises(AwsError) as error:
        parse_function_name(text, ACCOUNT, REGION)
    assert error.value.code == "ValidationException"


def test_another_region_is_not_reachable() -> None:
    with pytest.raises(AwsError) as error:
        parse_function_name("arn:aws:lambda:us-east-1:123456789012:function:f", ACCOUNT, REGION)
    assert (error.value.code, error.value.status) == ("ResourceNotFoundException", 404)
    assert error.value.message == "Functions from 'us-east-1' are not reachable in this region ('eu-west-1')"


@pytest.mark.parametrize(
    ("region", "partition"), [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov"), ("eu-west-1", "aws")]
)
def test_a_region_belongs_to_its_partition(region: str, partition: str) -> None:
    assert function_arn(ACCOUNT, region, "f") == f"arn:{partition}:lambda:{region}:{ACCOUNT}:function:f"
