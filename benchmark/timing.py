"""Measurements taken in turns, so that a device that warms up or throttles slows all alike and shows as spread."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def in_turns(measurements: Mapping[Name, Callable[[], float]], repeats: int) -> dict[Name, list[float]]:
    """What each measurement gives, `repeats` times: the first of all, the second of all, and so on."""
    found: dict[Name, list[float]] = {name: [] for name in measurements}
    for _ in range(repeats):
        for name, measure in measurements.items():
            found[name].append(measure())
    return found


def spread(found: Mapping[Hashable, Sequence[float]]) -> float:
    """By how much the largest of a measurement is above its smallest, as a share; of the least steady one."""
    return max(max(values) / min(values) - 1 for values in found.values())
