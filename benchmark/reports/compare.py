"""Two results side by side: ratios of throughput, and whether the repeats show a difference.

The interval is Welch's, of the difference of the means of log throughput, so it is one of a ratio: times of runs differ
by factors, and two settings need not scatter alike. It takes the logarithms for roughly normal, which three repeats can
neither show nor refute. So the exact permutation test stands beside it, which takes nothing for granted and can say
little of few repeats: of three and three its p is never below 0.1. What is said follows the interval. Repeats of one
session know nothing of other days and other machines, and neither do both methods.

Both are a few lines, so no statistics library is needed; the tests hold them to published tables and to enumeration.
"""

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmark.reports.data import SUBJECT, Result, measured
from benchmark.sweeps.repeats import Repeats

CONFIDENCE = 0.95
ENUMERATED = 200_000  # groupings at most for the exact test; 10 and 10 repeats are 184,756
GRID = 200_001
METHOD = (
    "Ratio of medians. The 95 % interval is of the ratio of geometric means, by Welch's t on log throughput; it takes "
    "the logs for normal, which few repeats can neither show nor refute. p is of the exact two-sided permutation test "
    "of the same means, beside the smallest p that so many repeats could give. “No difference shown” means that the "
    "interval contains 1, not that the two are equal. Each row is judged by itself: of twenty rows without any "
    "difference, one is expected to show one. Chance is what scatters within a result: of a machine that was busier or "
    "hotter for one of the two neither figure knows, so measure them in turns where it matters."
)


class Comparison(NamedTuple):
    """One configuration in two results; rates in sequences per second."""

    first: Repeats
    second: Repeats
    words: str
    ratio: float | None = None
    """Of the medians, the second over the first."""
    interval: tuple[float, float] | None = None
    p: float | None = None
    smallest_p: float | None = None


def quantile_of_t(probability: float, degrees: float) -> float:
    """The t that |T| stays below with this probability.

    With t = sqrt(degrees) tan(angle), the density becomes cos(angle)^(degrees - 1) on (0, pi/2): nothing to cut off.
    """
    angles = np.linspace(0.0, math.pi / 2, GRID)
    density = np.cos(angles).clip(0) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(probability * below[-1], below, angles)))


def ratio_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """Of the ratio of geometric means, second over first, at `CONFIDENCE`; None with fewer than two of either."""
    if min(len(first), len(second)) < 2:
        return None
    logs = [[math.log(rate) for rate in rates] for rates in (first, second)]
    shares = [statistics.variance(values) / len(values) for values in logs]
    difference = statistics.fmean(logs[1]) - statistics.fmean(logs[0])
    error = sum(shares)
    if error == 0:
        return math.exp(difference), math.exp(difference)
    weight = shares[0] / error
    degrees = 1 / (weight**2 / (len(first) - 1) + (1 - weight) ** 2 / (len(second) - 1))
    reach = quantile_of_t(CONFIDENCE, degrees) * math.sqrt(error)
    return math.exp(difference - reach), math.exp(difference + reach)


def permutation_p(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """Two-sided p of the difference of mean logs over all groupings, and the smallest that so many values could give.

    None where either is empty, or there are more than `ENUMERATED` groupings.
    """
    n, total = len(first), len(first) + len(second)
    groupings = math.comb(total, n)
    if not first or not second or groupings > ENUMERATED:
        return None
    logs = [math.log(rate) for rate in (*first, *second)]
    mean = math.fsum(logs) / total
    centered = [value - mean for value in logs]
    # With the total fixed, the difference of means rises with the sum of the first group.
    seen = abs(math.fsum(centered[:n]))
    slack = 1e-12 * max(1.0, max(map(abs, centered)))
    extreme = sum(abs(math.fsum(group)) >= seen - slack for group in itertools.combinations(centered, n))
    smallest = (2 if n == total - n else 1) / groupings
    return extreme / groupings, smallest


def compare_repeats(first: Repeats, second: Repeats) -> Comparison:
    """One configuration, in words too."""
    rates = [side.values("sequences_per_second") for side in (first, second)]
    if not all(rates):
        absent = [side for side, rate in zip((first, second), rates, strict=True) if not rate]
        words = " and ".join(f"{side.label}: {side.status if side.status != 'ok' else 'no rate'}" for side in absent)
        return Comparison(first, second, words)
    interval = ratio_interval(*rates)
    wrong = [side.label for side in (first, second) if side.problem]
    if wrong:
        words = f"not comparable: {' and '.join(wrong)} trained wrongly"
    elif interval is None:
        words = "single measurements: nothing can be said of chance"
    elif interval[0] <= 1 <= interval[1]:
        words = "no difference shown"
    else:
        words = f"{second.label} is {'faster' if interval[0] > 1 else 'slower'}"
    ratio = statistics.median(rates[1]) / statistics.median(rates[0])
    return Comparison(first, second, words, ratio, interval, *(permutation_p(*rates) or (None, None)))


def compare(first: Result, second: Result) -> tuple[list[Comparison], list[str]]:
    """The configurations that both have, and sentences about how the two were matched.

    A field that has one value throughout the first and another throughout the second, such as the precision, is what is
    compared, and does not keep their points apart. What a rate is of (`SUBJECT`), such as the length, always does.
    """
    sides = [measured([first]), measured([second])]
    if not all(sides):
        return [], []
    names = sorted({name for side in sides for each in side for name in each.configuration} - {"batch_size", *SUBJECT})
    told, compared = [], set()
    for name in names:
        values = [{json.dumps(each.configuration.get(name), sort_keys=True) for each in side} for side in sides]
        if len(values[0]) == len(values[1]) == 1 and values[0] != values[1]:
            compared.add(name)
            told.append(f"{name} is {values[0].pop()} in {first.label} and {values[1].pop()} in {second.label}.")

    def key(repeats: Repeats) -> str:
        kept = {name: value for name, value in repeats.configuration.items() if name not in compared}
        return json.dumps(kept, sort_keys=True)

    ours, theirs = ({key(each): each for each in side} for side in sides)
    for side, other, result in ((ours, theirs, first), (theirs, ours, second)):
        alone = len(side.keys() - other.keys())
        if alone:
            told.append(f"{alone} configuration{'s' * (alone > 1)} of {result.label} alone; not compared.")
    return [compare_repeats(each, theirs[place]) for place, each in ours.items() if place in theirs], told
