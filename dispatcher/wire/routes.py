"""From an HTTP method and path to an operation, by the routes of botocore's model.

Matching is on the raw path: segments are taken apart first and percent-decoded afterwards, since a function's name may be
a full ARN and an ARN of another kind may contain an encoded slash.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Final
from urllib.parse import parse_qsl, unquote

from dispatcher.wire.errors import AwsError
from dispatcher.wire.model import Operation, operations


@dataclass(slots=True)
class _Node:
    """One segment of the tree of paths."""

    children: dict[str, "_Node"] = field(default_factory=dict)
    label: "_Node | None" = None
    methods: dict[str, list[Operation]] = field(default_factory=dict)

    def child_for(self, segment: str) -> "_Node":
        """The node below this one for a segment of a route, made if it is not there."""
        if not segment.startswith("{"):
            return self.children.setdefault(segment, _Node())
        if self.label is None:
            self.label = _Node()
        return self.label

    def node_at(self, segments: list[str], depth: int) -> "_Node | None":
        """The node for these segments; fixed segments win over labels."""
        if depth == len(segments):
            return self if self.methods else None
        child = self.children.get(segments[depth])
        if child is not None:
            found = child.node_at(segments, depth + 1)
            if found is not None:
                return found
        return self.label.node_at(segments, depth + 1) if self.label is not None else None


class Routes:
    """The routes of a set of operations."""

    def __init__(self, known: Iterable[Operation]) -> None:
        self._root: Final = _Node()
        for operation in known:
            self._add_operation(operation)

    def _add_operation(self, operation: Operation) -> None:
        node = self._root
        for segment in operation.path:
            node = node.child_for(segment)
        same = node.methods.setdefault(operation.method, [])
        same.append(operation)
        # ``?List=ALL`` and its like are tried before the plain route.
        same.sort(key=lambda one: -len(one.query_flags))

    def match(self, method: str, raw_path: str, query: str) -> tuple[Operation, list[str]]:
        """The operation and the raw segments of the path; ``query`` decides only where several share a path.

        Raises ``UnknownOperationException``: 404 for an unknown path, 405 for a known one with another method.
        """
        segments = raw_path[1:].split("/")
        if not segments[-1]:  # Older SDKs end some paths in a slash.
            segments.pop()
        node = self._root.node_at(segments, 0)
        if node is None:
            raise AwsError("UnknownOperationException", f"There is no operation at {method} {unquote(raw_path)}")
        candidates = node.methods.get(method)
        if candidates is None:
            allowed = ", ".join(sorted(node.methods))
            message = f"There is no operation at {method} {unquote(raw_path)}; this path takes {allowed}"
            raise AwsError("UnknownOperationException", message, status=405)
        return self._choose_operation(candidates, query), segments

    def _choose_operation(self, candidates: list[Operation], query: str) -> Operation:
        if len(candidates) == 1 and not candidates[0].query_flags:
            return candidates[0]
        given = set(parse_qsl(query, keep_blank_values=True))
        for operation in candidates:
            if given.issuperset(operation.query_flags):
                return operation
        raise AwsError("UnknownOperationException", f"The query '{query}' names no operation of this path")


@cache
def api_routes() -> Routes:
    """The routes of the whole Lambda API."""
    return Routes(operations().values())
