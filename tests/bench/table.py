"""From samples to figures, and the table of them with the targets."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.table import Table


class Latency(NamedTuple):
    """Milliseconds."""

    p50: float
    p99: float


def latency(rounds: Sequence[Sequence[float]]) -> Latency:
    """The median over the rounds of each round's median; the 99th of 100 over all calls."""
    everything = sorted(took for samples in rounds for took in samples)
    p50 = statistics.median(statistics.median(samples) for samples in rounds)
    return Latency(p50, everything[min(len(everything) * 99 // 100, len(everything) - 1)])


@dataclass(frozen=True, slots=True)
class Line:
    """A figure of Everwarm's beside the bare one; ``target`` bounds their ratio."""

    title: str
    bare: float
    everwarm: float
    unit: str
    target: float | None = None
    at_least: bool = False
    """The target is a lower bound."""

    @property
    def ratio(self) -> float:
        """Everwarm's by the bare one."""
        return self.everwarm / self.bare

    @property
    def verdict(self) -> str:
        """The target, and whether it is met."""
        if self.target is None:
            return ""
        met = self.ratio >= self.target if self.at_least else self.ratio <= self.target
        style, word = ("green", "met") if met else ("bold red", "not met")
        return f"{'≥' if self.at_least else '≤'} {self.target:g}  [{style}]{word}[/]"


@dataclass(frozen=True, slots=True)
class Missing:
    """A figure that could not be had here."""

    title: str
    why: str


Row = Line | Missing


def table(lines: Sequence[Row], caption: str) -> Table:
    """Everything for people."""
    found = Table("", "BARE", "EVERWARM", "RATIO", "TARGET", box=None, caption=caption, caption_justify="left")
    for column in found.columns[1:4]:
        column.justify = "right"
    for line in lines:
        if isinstance(line, Missing):
            found.add_row(line.title, "", "", "", f"not measured: {line.why}")
            continue
        found.add_row(
            line.title,
            number_text(line.bare, line.unit),
            number_text(line.everwarm, line.unit),
            f"{line.ratio:.2f}",
            line.verdict,
        )
    return found


def number_text(value: float, unit: str) -> str:
    return f"{value:,.0f}{unit}" if value >= 100 else f"{value:.2f}{unit}"
