"""The dispatcher's parts as the operations and the asynchronous path use them."""

from dataclasses import dataclass

from dispatcher.calls.admission import Admission
from dispatcher.calls.fleet import Fleet
from dispatcher.calls.sync_calls import SyncCalls
from dispatcher.catalog.catalog import Catalog
from dispatcher.code.store import CodeStore
from dispatcher.ledger.ledger import Ledger
from dispatcher.settings import DispatcherSettings
from workers.contract.messages import Mode


@dataclass(frozen=True, slots=True)
class Services:
    """The dispatcher's parts, built once at start and shared by all calls."""

    catalog: Catalog
    code: CodeStore
    sync_calls: SyncCalls
    fleet: Fleet
    admission: Admission
    settings: DispatcherSettings
    ledger: Ledger
    default_mode: Mode = "local"
    """Where functions run that have no tag ``everwarm:mode``."""
