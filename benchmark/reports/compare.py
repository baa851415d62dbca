"""Two results side by side: ratios of throughput, and whether the repeats show a difference.

The interval is Welch's, of the difference of the means of log throughput, so it is one of a ratio: times of runs differ
by factors, and two settings need not scatter alike. Student's t is integrated here: nothing else needs scipy.
"""

import itertools
import math
import statistics
from collections.abc import Sequence

import numpy as np

from benchmark.reports.data import SUBJECT, Result, measured
from benchmark.sweeps.points import Repeats, subject
from benchmark.tables import MISSING, Table, text
from common.words import counted

METHOD = (
    "Ratio of medians; the 95 % interval is Welch's, of the ratio of geometric means. “No difference shown” means that "
    "it contains 1, not that the two are equal. docs/benchmarking.md says what it does not know."
)


def quantile_of_t(probability: float, degrees: float) -> float:
    """The t that |T| stays below with this probability.

    With t = sqrt(degrees) tan(angle), the density becomes cos(angle)^(degrees - 1) on (0, pi/2): nothing to cut off.
    """
    angles = np.linspace(0.0, math.pi / 2, 200_001)
    density = np.cos(angles).clip(0) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(probability * below[-1], below, angles)))


def ratio_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the ratio of geometric means, second over first; None with fewer than two of either."""
    if min(len(first), len(second)) < 2:
        return None
    logs = [[math.log(rate) for rate in rates] for rates in (first, second)]
    shares = [statistics.variance(values) / len(values) for values in logs]
    difference, error = statistics.fmean(logs[1]) - statistics.fmean(logs[0]), sum(shares)
    reach = 0.0
    if error:
        degrees = error**2 / sum(share**2 / (len(values) - 1) for share, values in zip(shares, logs, strict=True))
        reach = quantile_of_t(0.95, degrees) * math.sqrt(error)
    return math.exp(difference - reach), math.exp(difference + reach)


def comparison_table(first: Result, second: Result) -> Table:
    """The configurations that both have, and notes on how the two were matched.

    A field that has one value throughout the first and another throughout the second, such as the precision, is what is
    compared, and does not keep their points apart. What a rate is of (`SUBJECT`), such as the length, always does.
    """
    sides = [list(itertools.chain(*measured([result]))) for result in (first, second)]
    notes, kept = [], {"batch_size", *SUBJECT}
    for name in sorted({name for side in sides for each in side for name in each.configuration} - kept):
        values = [{str(each.configuration.get(name)) for each in side} for side in sides]
        if len(values[0]) == len(values[1]) == 1 and values[0] != values[1]:
            notes.append(f"{name} is {values[0].pop()} in {first.label} and {values[1].pop()} in {second.label}.")
        else:
            kept.add(name)
    kept = sorted(kept)
    ours, theirs = ({str([each.configuration.get(name) for name in kept]): each for each in side} for side in sides)
    for result, alone in ((first, ours.keys() - theirs.keys()), (second, theirs.keys() - ours.keys())):
        if alone:
            notes.append(f"{counted(len(alone), 'configuration')} of {result.label} alone; not compared.")
    rows = [_row(each, theirs[key]) for key, each in ours.items() if key in theirs]
    return Table(f"{second.label} against {first.label}", rows, [*notes, METHOD])


def _row(*sides: Repeats) -> dict[str, str]:
    rates = [side.values("sequences_per_second") for side in sides]
    medians = [side.median("sequences_per_second") for side in sides]
    ratio = medians[1] / medians[0] if all(medians) else None
    interval = ratio_interval(*rates)
    if ratio is None or any(side.problem for side in sides):
        verdict = " and ".join(f"{side.label}: {side.state}" for side in sides if side.status != "ok") or "no rate"
    elif interval is None:
        verdict = "single measurements: nothing can be said of chance"
    elif interval[0] <= 1 <= interval[1]:
        verdict = "no difference shown"
    else:
        verdict = f"{sides[1].label} is {'faster' if interval[0] > 1 else 'slower'}"
    return {
        "configuration": f"{subject(sides[0].configuration)}, {sides[0].name}",
        "batch": f"{sides[0].batch_size:,}",
        **{side.label: text(median, ",.1f") for side, median in zip(sides, medians, strict=True)},
        "ratio": text(ratio, ".3f"),
        "95 % interval": f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else MISSING,
        "verdict": verdict,
    }
