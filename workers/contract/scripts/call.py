"""One call of a script as a value: what to send to Redis, and how to read what comes back."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from workers.contract.scripts.loader import Script

Answer_co = TypeVar("Answer_co", covariant=True)
Word = TypeVar("Word", bound=str)

Argument = str | bytes | int | float
#: A command as redis-py takes it.
Command = tuple[Argument, ...]


class Call(msgspec.Struct, Generic[Answer_co], frozen=True):
    """A script with its keys and arguments; every one may be run a second time when the first answer was lost."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Argument]
    decode: Callable[[Any], Answer_co]
    """Turns what Redis answered (bytes, lists of bytes) into the typed answer."""

    def evalsha(self) -> Command:
        """The command for a Redis that has the script; another answers NOSCRIPT, and has run nothing."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def eval(self) -> Command:
        """The command that brings the script along, after which Redis has it."""
        return ("EVAL", self.script.source, len(self.keys), *self.keys, *self.args)


def one_of(words: Iterable[Word]) -> Callable[[bytes], Word]:
    """The decoder of a script that answers one of ``words``; raises ``KeyError`` for another."""
    return {word.encode(): word for word in words}.__getitem__


def number_or(words: Iterable[Word]) -> Callable[[bytes], int | Word]:
    """The decoder of a script that answers a number or one of ``words``; raises ``ValueError`` for another."""
    known = {word.encode(): word for word in words}

    def decode(answer: bytes) -> int | Word:
        found = known.get(answer)
        return int(answer) if found is None else found

    return decode


def text(answer: bytes) -> str:
    """The decoder of a script that answers a string of its own."""
    return answer.decode()


def texts(answer: Iterable[bytes]) -> list[str]:
    """The decoder of a script that answers a list of strings."""
    return [item.decode() for item in answer]
