"""The command ``everwarm``: ``commands`` has its commands and options, one module each what they do."""

from dispatcher.cli.commands import main

__all__ = ["main"]
