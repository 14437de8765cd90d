"""Where the relay's binaries are: ``bin/everwarm-relay-<architecture>`` beside this file, one for each architecture.

``build`` puts them there and the worker starts them from there. Nothing but the standard library is imported here,
because ``build`` also runs where this package can't be imported.
"""

import platform
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).resolve().parent / "bin"


class RelayMissing(Exception):
    """The installation is incomplete: there is no relay for an architecture that one is needed for."""


def aws_architecture(name: str) -> str:
    """AWS's name (``x86_64``, ``arm64``) of what kernels, Go and Docker call by others; any other name as it is."""
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(name, name)


def host_architecture() -> str:
    """This machine's architecture, by :func:`aws_architecture`."""
    return aws_architecture(platform.machine().lower())


def binary(architecture: str) -> Path:
    """The path of the relay for ``architecture``, whether it was built or not."""
    return DIRECTORY / f"everwarm-relay-{architecture}"


def host_binary() -> Path:
    """The relay for this machine. Raises :class:`RelayMissing`, which says how to build it."""
    path = binary(host_architecture())
    if not path.is_file():
        raise RelayMissing(f"{path} is missing; in a source tree `python -m workers.relay.build` builds it")
    return path
