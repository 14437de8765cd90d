"""The files of the Runtime API clients, and how they are put where functions may read them."""

import os
import shutil
from pathlib import Path
from typing import Final

CLIENTS: Final = Path(__file__).parent
"""The folder of the Runtime API clients: ``python/`` and ``node/``."""
_CLIENT_FILES: Final = (
    "python/bootstrap.py",
    "python/_everwarm_client.py",
    "python/_everwarm_details.py",
    "node/bootstrap.js",
    "node/api.js",
    "node/errors.js",
    "node/handler.js",
    "node/logs.js",
    "node/stream.js",
)


def install_clients(directory: Path) -> Path:
    """Copy the clients into ``directory`` (made when missing), open to every user of the machine. Returns it."""
    for name in _CLIENT_FILES:
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(CLIENTS / name, fresh)
        fresh.chmod(0o644)
        fresh.replace(target)
        target.parent.chmod(0o755)
    directory.chmod(0o755)
    return directory
