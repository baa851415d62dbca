#!/usr/bin/env python3
"""How the runs of MLPerf's BERT learned, by their logs (:::MLLOG lines), beside published runs.

  python3 benchmark/mlperf_curve.py results/mlperf_bert/result_*.txt
  python3 benchmark/mlperf_curve.py results/mlperf_bert/result_0.txt --plot curve.png

The first table has a row for each run: status, samples, and seconds from run_start to run_stop. Then each evaluation
stands beside the mean of published runs with the same hyperparameters, and how many of their standard deviations it is
away (z); within 2 it is inside. Nothing here was verified by MLCommons.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.tables import Table, text
from common.command_line import CommandLine
from common.errors import Problems, UserError, run_main
from common.json_files import parse_json
from file_utils import atomic_write
from tasks.pretraining.mllog import PREFIX

BANDS = Path(__file__).resolve().parent / "reports" / "mlperf_bands.json"
BOUND = 2.0
"""Standard deviations on either side of the mean that are inside."""
OF_A_RESULT = 10
"""Runs, of which MLPerf drops the best and the worst."""


@dataclasses.dataclass(frozen=True)
class Band:
    """Masked-LM accuracies of published runs."""

    hyperparameters: Mapping[str, float]
    runs: int
    accuracies: Sequence[tuple[int, float, float]]
    """Samples, mean and standard deviation; of runs that had not finished before."""
    samples_to_target: tuple[float, float]
    """Mean and standard deviation."""

    def at(self, samples: int) -> tuple[float, float] | None:
        """Mean and deviation at an evaluation: due at a number of samples, it comes less than a batch later."""
        batch = self.hyperparameters["global_batch_size"]
        found = [(mean, deviation) for due, mean, deviation in self.accuracies if due <= samples < due + batch]
        return found[0] if found else None


@dataclasses.dataclass(frozen=True)
class Run:
    """What a log says."""

    name: str
    values: Mapping[str, Any]
    """Of keys that stand for themselves, such as "seed"."""
    accuracies: Sequence[tuple[int, float]]
    """By samples."""
    seconds: float | None
    """From run_start to run_stop; None where one of them is missing."""
    status: str

    def band(self, bands: Sequence[Band]) -> Band | None:
        """The published runs with the same hyperparameters, if there are any."""
        same = (b for b in bands if all(self.values.get(key) == value for key, value in b.hyperparameters.items()))
        return next(same, None)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("logs", metavar="LOG", nargs="+", help="a result_N.txt that run_pretraining.py --mllog wrote")
    parser.add_argument("--plot", metavar="FILE.png", help="also draw the curves")
    return parser.parse_args(arguments)


def read_bands() -> list[Band]:
    """The published runs."""
    return [Band(**band) for band in json.loads(BANDS.read_text(encoding="utf-8"))["bands"]]


def read_run(path: str) -> Run:
    """A run by its log. Raises UserError where it has no evaluation."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
        events = [parse_json(line.split(PREFIX, 1)[1]) for line in lines if PREFIX in line]
        found = [(event["key"], event["time_ms"], event["value"], event["metadata"]) for event in events]
        accuracies = [(int(data["epoch_num"]), float(value)) for key, _, value, data in found if key == "eval_accuracy"]
        times = {key: time / 1000 for key, time, *_ in found}
        statuses = [str(data["status"]) for key, *_, data in found if key == "run_stop"]
    except OSError as error:
        raise UserError(f"the log {path} cannot be read ({error.strerror})", "give a result_0.txt") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} has a line that is not of MLPerf's form", "give a log that --mllog wrote") from error
    if not accuracies:
        raise UserError(f"{path} has no evaluation of MLPerf's form", "give a log that --mllog wrote")
    ended = {"run_start", "run_stop"} <= times.keys()
    seconds = times["run_stop"] - times["run_start"] if ended else None
    return Run(path, {key: value for key, _, value, _ in found}, accuracies, seconds, (statuses or ["unfinished"])[-1])


def run_row(run: Run, band: Band | None) -> dict[str, str]:
    """A run's row of the first table."""
    samples, accuracy = run.accuracies[-1]
    scores = [z for evaluation in run.accuracies if (z := z_score(*evaluation, band)) is not None]
    row = {
        "log": run.name,
        "batch": text(run.values.get("global_batch_size"), ",.0f"),
        "seed": str(run.values.get("seed", "-")),
        "division": str(run.values.get("submission_division", "-")),
        "status": run.status,
        "samples": f"{samples:,}",
        "accuracy": f"{accuracy:.5f}",
        "seconds": text(run.seconds, ",.1f"),
    }
    if band is None:
        return row
    row["inside"] = f"{sum(abs(z) <= BOUND for z in scores)} of {len(scores)}"
    mean, deviation = band.samples_to_target
    row["z of samples"] = text((samples - mean) / deviation if run.status == "success" else None, "+.1f")
    return row


def z_score(samples: int, accuracy: float, band: Band | None) -> float | None:
    """Standard deviations between an accuracy and the published mean; None where none was published."""
    published = band and band.at(samples)
    return (accuracy - published[0]) / published[1] if published else None


def evaluation_rows(run: Run, band: Band) -> list[dict[str, str]]:
    """A row for each evaluation of a run."""
    rows = []
    for samples, accuracy in run.accuracies:
        row = {"samples": f"{samples:,}", "accuracy": f"{accuracy:.5f}"}
        if published := band.at(samples):
            z = z_score(samples, accuracy, band)
            row |= {"published": f"{published[0]:.4f} ± {published[1]:.4f}", "z": f"{z:+.1f}"}
            row["band"] = "inside" if abs(z) <= BOUND else "outside"
        rows.append(row)
    return rows


def mean_seconds(runs: Sequence[Run]) -> str | None:
    """What MLPerf makes of ten runs, in a sentence; None of others."""
    seconds = sorted(run.seconds for run in runs if run.status == "success" and run.seconds is not None)
    if len(seconds) != OF_A_RESULT:
        return None
    mean = statistics.fmean(seconds[1:-1])
    return f"mean of {OF_A_RESULT} runs without the best and the worst: {mean:,.1f} s"


def plot(path: Path, runs: Sequence[Run], bands: Sequence[Band]) -> None:
    """Draw the runs, and the published ones beside them."""
    from benchmark.reports.drawing import Figure, Series, render  # matplotlib takes a second to import

    series = [Series(run.name, *zip(*run.accuracies, strict=True)) for run in runs]
    for band in {id(band): band for run in runs if (band := run.band(bands))}.values():
        samples, means, deviations = zip(*band.accuracies, strict=True)
        spread = [[BOUND * deviation for deviation in deviations]] * 2
        label = f"{band.runs} published runs, batch {band.hyperparameters['global_batch_size']:,}"
        series.append(Series(label, samples, means, spread=spread))
    title = "MLPerf's BERT, unverified"
    figure = Figure("mlperf_curve", title, "", series, "training samples", "masked-LM accuracy")
    with atomic_write(path, "wb") as file:
        file.write(render(figure).images["light"])
    print(f"plot: {path}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the logs and print the tables."""
    args = parse_arguments(arguments)
    problems, runs, bands = Problems(), [], read_bands()
    if args.plot:
        problems.check(args.plot.endswith(".png"), f"--plot is {args.plot}", "give the name of a .png file")
    for log in args.logs:
        with problems.collect():
            runs.append(read_run(log))
    problems.raise_if_any()
    print("Unverified by MLCommons.\n")
    print(Table("", [run_row(run, run.band(bands)) for run in runs]).plain())
    if sentence := mean_seconds(runs):
        print(f"\n{sentence}")
    for run in runs:
        if (band := run.band(bands)) is None:
            print(f"\n{run.name}: no runs with these hyperparameters are published to compare with")
            continue
        print(f"\n{run.name}, beside {band.runs} published runs; later points have those still training only:\n")
        print(Table("", evaluation_rows(run, band)).plain())
    if args.plot:
        plot(Path(args.plot), runs, bands)


if __name__ == "__main__":
    run_main(main)
