"""Measurements taken in turns, so that a device that warms up or throttles slows all alike and shows as spread."""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from common.lifetime import die_with_parent


def in_turns(measurements: Mapping[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[Any]]:
    """What each measurement gives, `repeats` times: the first of all, the second of all, and so on."""
    found: dict[Any, list[Any]] = {name: [] for name in measurements}
    for _ in range(repeats):
        for name, measure in measurements.items():
            found[name].append(measure())
    return found


def spread(found: Mapping[Any, Sequence[float]]) -> float:
    """By how much the largest of a measurement is above its smallest, as a share; of the least steady one."""
    return max(max(values) / min(values) - 1 for values in found.values())


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a process that has done nothing before, so that nothing is remembered."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=die_with_parent) as pool:
        return pool.submit(function, *arguments).result()
