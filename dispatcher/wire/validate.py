"""The model's constraints, checked in AWS's words; all violations of a request go into one ``ValidationException``.

Sources: the constraints are botocore's model; the wording, the order of rules and the collapsed forms for lists and maps
(``Member must satisfy constraint: [...]``) were read off AWS's answers. Values of shapes that the model marks
sensitive are never echoed: AWS writes ``Value at 'environment.variables' failed …`` for those.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape

from dispatcher.wire.errors import AwsError
from dispatcher.wire.model import Operation

Check = Callable[[Any, str, list[str]], None]

#: Java's classes for which ``re`` has no name. ``\w`` contains letters, digits and the underscore, and each class in the
#: model that has one of these has all three of letters, numbers and ``_``; so the result is the same set.
_JAVA_CLASSES: Final = {
    r"\p{L}": r"\w",
    r"\p{N}": r"\w",
    r"\p{Z}": " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
}
_NOT_NULL: Final = "Member must not be null"
#: A bare name is at most 64 characters long; the model's 140 is for ARNs (AWS says so only at creation).
_BARE_NAME: Final = 64
#: Upper limits by shape that the model leaves out or gives for functions on machines of one's own only; AWS's documentation.
_HIGHEST: Final = {"Timeout": 900, "MemorySize": 10_240, "EphemeralStorageSize": 10_240}
#: Patterns are not tried on values far beyond the longest allowed one, so that none can be made to backtrack for long.
_PATTERN_LENGTH: Final = 2048


@dataclass(frozen=True, slots=True)
class Rule:
    """One constraint: the message it is named by, and whether a value keeps it."""

    message: str
    is_kept: Callable[[Any], bool]


def validate(operation: Operation, request: Mapping[str, Any]) -> None:
    """Check a request against the model.

    Raises ``ValidationException`` with every violation, or for an unknown runtime alone
    ``InvalidParameterValueException``, as AWS does.
    """
    check = _validator(operation)
    if check is None:
        return
    found: list[str] = []
    check(request, "", found)
    if found:
        count = f"{len(found)} validation error{'s' if len(found) > 1 else ''} detected"
        raise AwsError(_error_name(operation, request, found), f"{count}: {'; '.join(found)}")
    _check_runtime(operation, request)


def _error_name(operation: Operation, request: Mapping[str, Any], found: list[str]) -> str:
    """A bad name that is no ARN gets another error at creation (recorded from AWS)."""
    only_name = operation.name == "CreateFunction" and all("at 'functionName'" in line for line in found)
    bare = ":" not in request.get("FunctionName", ":")
    return "InvalidParameterValueException" if only_name and bare else "ValidationException"


def _check_runtime(operation: Operation, request: Mapping[str, Any]) -> None:
    """AWS checks ``Runtime`` apart from the model's constraints, with an error and a wording of its own."""
    runtime = request.get("Runtime")
    if runtime is None or operation.input is None:
        return
    known = _enum_of(operation.input.members["Runtime"])
    if runtime not in known:
        raise AwsError(
            "InvalidParameterValueException",
            f"Value {runtime} at 'runtime' failed to satisfy constraint: "
            f"Member must satisfy enum value set: [{', '.join(known)}] or be a valid ARN",
        )


@cache
def _validator(operation: Operation) -> Check | None:
    if operation.input is None:
        return None
    if operation.name == "CreateFunction":
        return _structure_check(operation.input, {"FunctionName": _BARE_NAME_RULE}, frozenset({"Runtime"}))
    return _structure_check(operation.input, {}, frozenset({"Runtime"}))


_BARE_NAME_RULE: Final = Rule(
    f"Member must have length less than or equal to {_BARE_NAME}",
    lambda name: ":" in name or len(name) <= _BARE_NAME,
)


def _property(member: str) -> str:
    """AWS names members as Java properties: the first letter is small."""
    return member[:1].lower() + member[1:]


def _violation(value: object, path: str, message: str, *, hidden: bool = False) -> str:
    shown = "Value" if hidden else f"Value {_shown(value)}"
    return f"{shown} at '{path}' failed to satisfy constraint: {message}"


def _shown(value: object) -> str:
    return "null" if value is None else f"'{_java(value)}'"


def _java(value: object) -> str:
    """The value as Java prints it."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case list():
            return f"[{', '.join(_java(item) for item in value)}]"
        case dict():
            return f"{{{', '.join(f'{key}={_java(item)}' for key, item in value.items())}}}"
        case bytes():
            return f"java.nio.HeapByteBuffer[pos=0 lim={len(value)} cap={len(value)}]"
    return str(value)


def _check_of(shape: Shape) -> Check | None:
    match shape:
        case StructureShape():
            return _structure_check(shape, {}, frozenset())
        case ListShape():
            return _list_check(shape)
        case MapShape():
            return _map_check(shape)
    return _scalar_check(rules_of(shape), hidden=_is_sensitive(shape))


def _structure_check(shape: StructureShape, extra: Mapping[str, Rule], skip: frozenset[str]) -> Check:
    required = [(name, _property(name)) for name in shape.required_members]
    checks = {
        name: (_property(name), member_check)
        for name, member in shape.members.items()
        if name not in skip and (member_check := _with_extra(member, extra.get(name))) is not None
    }

    def check(value: Mapping[str, Any], path: str, found: list[str]) -> None:
        for name, shown in required:
            if name not in value:
                found.append(_violation(None, path + shown, _NOT_NULL))
        for name, item in value.items():
            entry = checks.get(name)
            if entry is not None:
                entry[1](item, path + entry[0], found)

    return _nested(check)


def _nested(check: Check) -> Check:
    """Members of a structure inside another are joined by a dot."""
    return lambda value, path, found: check(value, f"{path}." if path else "", found)


def _with_extra(shape: Shape, rule: Rule | None) -> Check | None:
    if rule is None:
        return _check_of(shape)
    return _scalar_check([rule, *rules_of(shape)], hidden=_is_sensitive(shape))


def _scalar_check(rules: list[Rule], *, hidden: bool) -> Check | None:
    if not rules:
        return None

    def check(value: object, path: str, found: list[str]) -> None:
        found.extend(_violation(value, path, rule.message, hidden=hidden) for rule in rules if not rule.is_kept(value))

    return check


def _list_check(shape: ListShape) -> Check:
    hidden = _is_sensitive(shape)
    length = _scalar_check(rules_of(shape), hidden=hidden)
    check_item = _check_of(shape.member) if not _is_scalar(shape.member) else None
    rules = rules_of(shape.member) if _is_scalar(shape.member) else []
    message = f"Member must satisfy constraint: [{_joined(rules)}]"

    def check(value: list[Any], path: str, found: list[str]) -> None:
        if length is not None:
            length(value, path, found)
        if not _all_hold(rules, value):
            found.append(_violation(value, path, message, hidden=hidden))
        elif check_item is not None:
            for index, item in enumerate(value, 1):
                check_item(item, f"{path}.{index}.member", found)

    return check


def _map_check(shape: MapShape) -> Check:
    hidden = _is_sensitive(shape)
    length = _scalar_check(rules_of(shape), hidden=hidden)
    keys = rules_of(shape.key)
    values = rules_of(shape.value) if _is_scalar(shape.value) else []
    check_item = _check_of(shape.value) if not _is_scalar(shape.value) else None
    key_message = f"Map keys must satisfy constraint: [{_joined(keys)}]"
    value_message = f"Map value must satisfy constraint: [{_joined(values)}]"

    def check(value: dict[str, Any], path: str, found: list[str]) -> None:
        if length is not None:
            length(value, path, found)
        if not _all_hold(keys, value):
            found.append(_violation(value, path, key_message, hidden=hidden))
        if not _all_hold(values, value.values()):
            found.append(_violation(value, path, value_message, hidden=hidden))
        elif check_item is not None:
            for key, item in value.items():
                check_item(item, f"{path}.{key}.member", found)

    return check


def _joined(rules: list[Rule]) -> str:
    return ", ".join([*(rule.message for rule in rules), _NOT_NULL])


def _all_hold(rules: list[Rule], values: Any) -> bool:
    return all(item is not None and all(rule.is_kept(item) for rule in rules) for item in values)


def _is_scalar(shape: Shape) -> bool:
    return not isinstance(shape, StructureShape | ListShape | MapShape)


def _is_sensitive(shape: Shape) -> bool:
    if shape.metadata.get("sensitive"):
        return True
    match shape:
        case ListShape():
            return _is_sensitive(shape.member)
        case MapShape():
            return _is_sensitive(shape.key) or _is_sensitive(shape.value)
    return False


def rules_of(shape: Shape) -> list[Rule]:
    """The constraints of a shape itself, in the order in which AWS names them."""
    return list(_rules(shape))


def _rules(shape: Shape) -> Iterator[Rule]:
    limits = shape.metadata
    low, high = limits.get("min"), _HIGHEST.get(shape.name, limits.get("max"))
    if shape.type_name in {"integer", "long", "double", "float"}:
        yield from _value_rules(low, high)
    elif shape.type_name in {"string", "list", "map", "blob"}:
        yield from _length_rules(low, high)
    if "pattern" in limits:
        yield _pattern_rule(str(limits["pattern"]), int(high or 0))
    known = _enum_of(shape)
    if known:
        yield Rule(f"Member must satisfy enum value set: [{', '.join(known)}]", frozenset(known).__contains__)


def _enum_of(shape: Shape) -> tuple[str, ...]:
    return tuple(shape.enum) if isinstance(shape, StringShape) else ()


def _value_rules(low: float | None, high: float | None) -> Iterator[Rule]:
    if high is not None:
        yield Rule(f"Member must have value less than or equal to {high}", lambda value: bool(value <= high))
    if low is not None:
        yield Rule(f"Member must have value greater than or equal to {low}", lambda value: bool(value >= low))


def _length_rules(low: int | None, high: int | None) -> Iterator[Rule]:
    if high is not None:
        yield Rule(f"Member must have length less than or equal to {high}", lambda value: len(value) <= high)
    if low:
        yield Rule(f"Member must have length greater than or equal to {low}", lambda value: len(value) >= low)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of the model (Java's dialect) for ``fullmatch``."""
    if r"\p{" not in pattern:
        return re.compile(pattern, re.ASCII)
    for java, python in _JAVA_CLASSES.items():
        pattern = pattern.replace(java, python)
    return re.compile(pattern)


def _pattern_rule(pattern: str, longest: int) -> Rule:
    matches = compile_pattern(pattern).fullmatch
    limit = max(longest, _PATTERN_LENGTH)
    return Rule(
        f"Member must satisfy regular expression pattern: {pattern}",
        lambda value: len(value) > limit or matches(value) is not None,
    )
