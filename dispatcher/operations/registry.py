"""Which operation has which handler."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path

from dispatcher.operations.call import Handler

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
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
    return dict(_registered)
