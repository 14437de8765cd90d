"""What a handler of an operation is, and what it gets.

A handler gets the :class:`Call` and the request as a dict by the input shape's member names, parsed and validated. It
returns a dict by the output shape's member names, or raises :class:`~dispatcher.wire.errors.AwsError`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from dispatcher.operations.services import Services


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks, and what a handler may use."""

    account: str
    """12 digits."""
    region: str
    request_id: str
    """UUID 4; also the answer's ``x-amzn-RequestId``."""
    services: Services
    caller: str = ""
    """Name of the function that makes the call through its relay; empty for everyone else."""
    trace_id: str = ""
    """The request's ``X-Amzn-Trace-Id``, which is no member of any shape."""


# Requests and answers are JSON documents whose shape is the model's; a typed dict per operation would retype it.
Request = dict[str, Any]
Response = dict[str, Any]
Handler = Callable[[Call, Request], Awaitable[Response]]
