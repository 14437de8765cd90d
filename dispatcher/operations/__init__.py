"""The API's operations: one module per subject, each handler registered under AWS's name for it.

A handler gets the :class:`Call` (who asks, and the dispatcher's parts) and the request as a dict by the input shape's
member names, parsed and validated. It returns a dict by the output shape's member names, or raises
:class:`~dispatcher.wire.errors.AwsError`. Operations without a handler answer 501.
"""

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workers.contract.messages import Mode

if TYPE_CHECKING:
    from dispatcher.calls.admission import Admission
    from dispatcher.calls.sync_calls import Queue
    from dispatcher.catalog.catalog import Catalog
    from dispatcher.code.store import CodeStore
    from dispatcher.ledger.ledger import Ledger
    from dispatcher.settings import DispatcherSettings


@dataclass(frozen=True, slots=True)
class Services:
    """The dispatcher's parts, built once at start and shared by all calls."""

    catalog: "Catalog"
    code: "CodeStore"
    queue: "Queue"
    admission: "Admission"
    settings: "DispatcherSettings"
    ledger: "Ledger"
    default_mode: Mode = "local"
    """Where functions run that have no tag ``everwarm:mode``."""


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

_registered: dict[str, Handler] = {}


def operation(name: str) -> Callable[[Handler], Handler]:
    """Register the decorated coroutine as the handler of AWS's operation ``name``."""

    def register(handler: Handler) -> Handler:
        if name in _registered and _registered[name] is not handler:
            raise ValueError(f"operation {name} has two handlers")
        _registered[name] = handler
        return handler

    return register


def handlers() -> Mapping[str, Handler]:
    """All handlers by operation name; imports every module of this package first, so that they register."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(_registered)
