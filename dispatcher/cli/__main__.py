"""``python -m dispatcher.cli``: the same as the command ``everwarm``."""

from dispatcher.cli import main

main()
