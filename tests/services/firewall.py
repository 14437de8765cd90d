"""What Docker engines leave in the machine's firewall, and take away from each other there."""

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network, ip_interface
from itertools import pairwise
from pathlib import Path


@contextmanager
def kept() -> Iterator[None]:
    """Put back what is missing afterwards: a dockerd that starts empties the chains that all engines of a machine share."""
    before = _rules()
    try:
        yield
    finally:
        now = set(_rules())
        # In front of a chain's last rule, which returns, and in the order that they had.
        for table, rule in reversed([one for one in before if one not in now]):
            _, chain, *rest = shlex.split(rule)
            if not all(Path("/sys/class/net", name).exists() for name in _interfaces(rest)):
                continue  # its network went meanwhile
            _iptables(table, "-N", chain)
            if not _iptables(table, "-C", chain, *rest):
                _iptables(table, "-A" if rest == ["-j", "RETURN"] else "-I", chain, *rest)


def forget(network: IPv4Network, *interfaces: str) -> None:
    """Remove every rule about an interface, or about an address of the network."""
    for table, rule in _rules():
        words = shlex.split(rule)
        if any(word in interfaces or _within(word, network) for word in words):
            _iptables(table, "-D", *words[1:])


def _interfaces(words: list[str]) -> Iterator[str]:
    return (name for option, name in pairwise(words) if option in ("-i", "-o"))


def _within(word: str, network: IPv4Network) -> bool:
    """Also for ``address:port`` and ``address/length``."""
    with suppress(ValueError):
        return ip_interface(word.partition(":")[0]).ip in network
    return False


def _iptables(table: str, *words: str) -> bool:
    done = subprocess.run(["iptables", "-w", "-t", table, *words], check=False, capture_output=True)
    return done.returncode == 0


def _rules() -> list[tuple[str, str]]:
    """Table and rule, in order."""
    done = subprocess.run(["iptables-save"], check=False, capture_output=True, text=True)
    found, table = [], ""
    for line in done.stdout.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A "):
            found.append((table, line))
    return found
