"""Names and ARNs of functions, in every form that AWS's API takes.

``name``, ``name:qualifier``, ``account:function:name[:qualifier]``, ``function:name[:qualifier]``,
``region:account:function:name[:qualifier]`` and the full ARN. The forms are those of the model's pattern for
``NamespacedFunctionName``; a request has passed that pattern before it gets here.
"""

import re
from dataclasses import dataclass
from typing import Final

from dispatcher.wire.errors import AwsError

LATEST: Final = "$LATEST"
_NAME: Final = re.compile(r"[a-zA-Z0-9-_.]+")
_QUALIFIER: Final = re.compile(r"\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+")
_REGION: Final = re.compile(r"(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-[0-9]")
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_PARTITION: Final = re.compile(r"aws[a-zA-Z-]*")
_ARN_PARTS: Final = 6


@dataclass(frozen=True, slots=True)
class FunctionName:
    """A function's name taken apart. ``qualifier`` is a version, an alias, ``$LATEST``, or None when none was given."""

    account: str
    region: str
    name: str
    qualifier: str | None = None

    @property
    def arn(self) -> str:
        """The ARN, with the qualifier when there is one."""
        return function_arn(self.account, self.region, self.name, self.qualifier)


def function_arn(account: str, region: str, name: str, qualifier: str | None = None) -> str:
    """``arn:aws:lambda:<region>:<account>:function:<name>[:<qualifier>]``."""
    arn = f"arn:{partition_of(region)}:lambda:{region}:{account}:function:{name}"
    return f"{arn}:{qualifier}" if qualifier else arn


def partition_of(region: str) -> str:
    """The partition that a region belongs to: ``aws``, ``aws-cn``, ``aws-us-gov``, …"""
    if region.startswith("cn-"):
        return "aws-cn"
    if region.startswith("us-gov-"):
        return "aws-us-gov"
    return "aws"


def parse_function_name(text: str, account: str, region: str) -> FunctionName:
    """Take a name apart; what it leaves out is filled in from the caller's account and region.

    Raises ``ResourceNotFoundException`` for an ARN of another region (AWS does not forward such calls), and
    ``ValidationException`` for what is no function name at all.
    """
    if ":" not in text:
        return FunctionName(account, region, _checked(_NAME, text, text))
    parts = text.split(":")
    if parts[0] == "arn":
        return _from_arn(text, parts, region)
    return _from_partial(text, parts, account, region)


def _from_arn(text: str, parts: list[str], region: str) -> FunctionName:
    if len(parts) < _ARN_PARTS + 1 or parts[2] != "lambda" or parts[5] != "function":
        raise _malformed(text)
    _checked(_PARTITION, parts[1], text)
    found_region = _checked(_REGION, parts[3], text)
    account = _checked(_ACCOUNT, parts[4], text)
    if found_region != region:
        raise AwsError(
            "ResourceNotFoundException",
            f"Functions from '{found_region}' are not reachable in this region ('{region}')",
        )
    return _with_qualifier(text, parts[6:], account, region)


def _from_partial(text: str, parts: list[str], account: str, region: str) -> FunctionName:
    rest = parts
    if len(rest) > 3 and _REGION.fullmatch(rest[0]):
        return _from_arn(text, ["arn", "aws", "lambda", *rest], region)
    if len(rest) > 2 and _ACCOUNT.fullmatch(rest[0]) and rest[1] == "function":
        account, rest = rest[0], rest[2:]
    elif len(rest) > 1 and rest[0] == "function":
        rest = rest[1:]
    return _with_qualifier(text, rest, account, region)


def _with_qualifier(text: str, rest: list[str], account: str, region: str) -> FunctionName:
    if len(rest) > 2:
        raise _malformed(text)
    name = _checked(_NAME, rest[0], text)
    qualifier = _checked(_QUALIFIER, rest[1], text) if len(rest) > 1 else None
    return FunctionName(account, region, name, qualifier)


def _checked(pattern: re.Pattern[str], part: str, text: str) -> str:
    if pattern.fullmatch(part) is None:
        raise _malformed(text)
    return part


def _malformed(text: str) -> AwsError:
    return AwsError(
        "ValidationException",
        f"1 validation error detected: Value '{text}' at 'functionName' failed to satisfy constraint: "
        "Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?"
        "((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1}:)?(\\d{12}:)?(function:)?([a-zA-Z0-9-_\\.]+)"
        "(:(\\$LATEST(\\.PUBLISHED)?|[a-zA-Z0-9-_]+))?",
    )
