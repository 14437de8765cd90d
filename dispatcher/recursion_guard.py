"""The recursion guard: how often each function stands in the chain of calls that led to an invocation.

The chain travels in the X-Ray trace header, which AWS's SDKs put on every call that a function makes:
``Root=…;Parent=…;Sampled=0;Lineage=a87bd80c:1|68fd508a:5`` (hash of the function : how often). Source: Lambda developer
guide, "Use Lambda recursive loop detection to prevent infinite loops"; AWS stops a chain after about 16 rounds.
"""

import hashlib
import re
import secrets
import time
from functools import lru_cache
from typing import Final

#: So many times a function may stand in one chain.
MOST: Final = 16
ERROR: Final = "RecursiveInvocationException"
MESSAGE: Final = (
    "Lambda has detected your function being invoked in a recursive loop with other AWS resources "
    "and stopped your function's invocation."
)
#: Functions in one chain that are remembered, the last ones.
_WIDEST: Final = 32
#: Characters of a trace header that anybody follows; it travels with every event.
_LONGEST: Final = 1024
_LINEAGE: Final = re.compile(r"(?:^|;)\s*Lineage=([^;]*)")
_ENTRY: Final = re.compile(r"([0-9a-f]{8}):(\d{1,5})")


def follow(trace_id: str, function_arn: str) -> str:
    """The trace header that a function is invoked with by a call that came with ``trace_id``."""
    name = _name(function_arn)
    counts = _counts(trace_id)
    counts[name] = counts.pop(name, 0) + 1
    rest = _LINEAGE.sub("", trace_id).strip("; ")
    if not rest or len(rest) > _LONGEST:
        rest = new_trace()
    chain = "|".join(f"{one}:{count}" for one, count in list(counts.items())[-_WIDEST:])
    return f"{rest};Lineage={chain}"


def is_loop(trace_id: str, function_arn: str) -> bool:
    """Whether the function stands too often in the chain that it is invoked with."""
    # Asked of every event: most never get so far that the chain has to be read.
    return f"{_name(function_arn)}:" in trace_id and _counts(trace_id).get(_name(function_arn), 0) > MOST


@lru_cache(1024)
def _name(function_arn: str) -> str:
    return hashlib.sha256(function_arn.encode()).hexdigest()[:8]


def _counts(trace_id: str) -> dict[str, int]:
    found = _LINEAGE.search(trace_id)
    return {entry[1]: int(entry[2]) for entry in _ENTRY.finditer(found[1])} if found else {}


def new_trace() -> str:
    """A trace that begins here, and is not recorded."""
    return f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)};Parent={secrets.token_hex(8)};Sampled=0"
