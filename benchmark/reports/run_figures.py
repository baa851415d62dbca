"""The pictures of training runs: loss and learning rate over all phases, with what was scored on the way.

Steps of a later phase continue those of the phase before, as checkpoints count them.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from benchmark.logs import Run
from benchmark.reports.drawing import Figure, Series
from benchmark.reports.published import loss_curves_for
from common.words import counted

Curve = list[tuple[int, float]]


def run_figures(runs: Sequence[Run]) -> Iterator[Figure]:
    """The figures of each task, not yet drawn."""
    by_task: dict[str, list[Run]] = {}
    for run in (run for run in runs if run.phases):
        by_task.setdefault(run.task, []).append(run)
    for task in by_task.values():
        yield from _curves(task, "average_loss", "Training loss")
    for task in by_task.values():
        yield from _curves(task, "learning_rate", "Learning rate")


def _curves(runs: Sequence[Run], key: str, words: str) -> Iterator[Figure]:
    series, sentences, starts = [], [], set()
    for run in runs:
        curve = joined([(first_step(run, number), phase.curve(key)) for number, phase in run.phases.items()])
        points = [(step, value) for step, value in curve if math.isfinite(value)]
        if len(points) < 2:
            continue
        n_lost = len(curve) - len(points)
        lost = f", with {counted(n_lost, 'step')} without a number" if n_lost else ""
        (_, first), (steps, last) = points[0], points[-1]
        sentences.append(f"{run.label}: from {first:.4g} to {last:.4g} over {counted(steps, 'step')}{lost}")
        series.append(Series(run.label, *zip(*points, strict=True)))
        starts |= {first_step(run, number) for number in run.phases} - {0}
        scored = joined([(first_step(run, number), phase.held_out_losses) for number, phase in run.phases.items()])
        if key == "average_loss" and scored:
            series.append(Series(f"{run.label}, held out", *zip(*scored, strict=True), "marks"))
            sentences[-1] += f", held out {scored[-1][1]:.4g}"
    if not series:
        return
    finding = "; ".join(sentences) + "."
    low, high = min(min(each.y) for each in series), max(max(each.y) for each in series)
    series += [Series("phase 2 begins", [start, start], [low, high], "guide") for start in sorted(starts)]
    if key == "average_loss":
        guides, said = _published(runs, max(each.x[-1] for each in series))
        series, finding = series + guides, finding + said
    names = [*dict.fromkeys(run.name_of(number) for run in runs for number in sorted(run.phases))]
    file = f"{'_'.join(names).replace(' ', '')}_{key}"
    yield Figure(file, f"{words}, {' and '.join(sorted(names))}", finding, series, "optimizer step", words.lower())


def first_step(run: Run, number: int) -> int:
    """The steps that were done before a phase: as the log of phase 2 says, or as phase 1 in the same log has."""
    if number == 1:
        return 0
    told = (run.phases[number].settings.get("arguments") or {}).get("phase1_end_step")
    return told or max(run.phases[1].steps if 1 in run.phases else [0])


def joined(curves: Sequence[tuple[int, Curve]]) -> Curve:
    """Curves on one axis, each moved by the steps before it."""
    return sorted((before + step, value) for before, curve in curves for step, value in curve)


def _published(runs: Sequence[Run], longest: int) -> tuple[list[Series], str]:
    """Curves of others beside these, to where the longest run ends, and a sentence on each."""
    curves: dict[str, dict[str, Any]] = {}
    for run in runs:
        for number, phase in run.phases.items():
            curves |= {curve["label"]: curve for curve in loss_curves_for(run.task, number, phase)}
    series, said = [], ""
    for each in curves.values():
        label = f"{each['label']}, ±{each['uncertainty']:g}"
        n_shown = max(2, 1 + sum(step < longest for step in each["steps"]))
        series.append(Series(label, each["steps"][:n_shown], each["losses"][:n_shown], "guide"))
        said += f" Grey: {label}, a run of others: {each['source']}."
    return series, said
