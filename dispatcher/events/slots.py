"""How many messages of events may be in flight: a pure function of the living workers.

A part of each mode's slots is kept for synchronous calls, which then start in milliseconds however long the backlog is.
"""

from collections.abc import Iterable, Mapping


def most_in_flight(workers: Iterable[Mapping[str, str]], reserve: int | None) -> dict[str, int]:
    """Mode → messages. ``reserve``: slots per mode that events do not get; ``None``: a quarter, at least 1.

    Events always have one slot where there is any, or they would wait for ever beside a single one.
    """
    slots: dict[str, int] = {}
    for worker in workers:
        if worker.get("stopping") != "1":
            slots[worker["mode"]] = slots.get(worker["mode"], 0) + int(worker["slots"])
    return {mode: max(count - _reserved(count, reserve), 1) for mode, count in slots.items()}


def _reserved(slots: int, reserve: int | None) -> int:
    return max(slots // 4, 1) if reserve is None else reserve
