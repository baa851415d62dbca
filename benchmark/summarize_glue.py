#!/usr/bin/env python3
"""A table of what the logs of GLUE say: one row for each task, over all the seeds that it was fine-tuned with.

  python3 benchmark/summarize_glue.py results/glue/*/seed_*/dllogger.json

Scores are times 100, as GLUE prints them: each metric's mean and, of several runs, its standard deviation. A task's
score is the mean of its metrics. Runs of which some diverged show in median and least. Below the table stands GLUE's
own mean, over the tasks. Of each log the last scores count, and the throughput of the last start that measured one.
"""

import functools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark import summarize
from benchmark.tables import Table, number, text
from common.errors import Problems, UserError, run_main
from common.words import counted
from tasks.glue.benchmarks import BENCHMARKS
from training.metrics.logger import read_log

parse_arguments = functools.partial(summarize.parse_arguments, description=__doc__)


def read_scores(log: str) -> tuple[str, dict[str, Any]]:
    """The task of a log, and what was logged of it. Raises UserError where there are no scores of GLUE."""
    try:
        events = [event for event in read_log(log) if event.get("type") == "LOG"]
    except OSError as error:
        raise UserError(f"the log {log} cannot be read ({error.strerror})", "give a dllogger.json") from error
    task, values = "", {}
    for event in events:
        if event["step"] == "PARAMETER":
            given = event["data"].get("arguments") or {}
            # The diagnostic set is predicted in the folder of mnli.
            task = str(given.get("task_name")) if given.get("task_name") != "ax" else task
        elif event["step"] == []:
            values |= event["data"]
    if task not in BENCHMARKS or number(values.get("score")) is None:
        raise UserError(f"{log} has no scores of GLUE", "give the dllogger.json of run_glue.py with --do_eval")
    return task, values


def row_of(task: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A task's row, by column."""
    prefixes = [prefix for prefix, _ in BENCHMARKS[task].dev]
    metrics = [prefix + metric for prefix in prefixes for metric in BENCHMARKS[task].metrics]
    scores = [100 * number(run["score"]) for run in runs]
    said = [f"{metric.replace('_', ' ')} {_spread([100 * number(run[metric]) for run in runs])}" for metric in metrics]
    return {
        "task": BENCHMARKS[task].folder,
        "runs": str(len(runs)),
        "metrics": ", ".join(said),
        "score": _spread(scores),
        "median": text(statistics.median(scores), ".2f"),
        "least": text(min(scores), ".2f"),
        "training sequences/s": text(_mean(runs, "sequences_per_second"), ",.1f"),
        "inference sequences/s": text(_mean(runs, "inference_sequences_per_second"), ",.1f"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the logs and print the table."""
    problems, by_task = Problems(), {}
    for log in parse_arguments(arguments).logs:
        with problems.collect():
            task, values = read_scores(log)
            by_task.setdefault(task, []).append(values)
    problems.raise_if_any()
    print(Table("", [row_of(task, by_task[task]) for task in BENCHMARKS if task in by_task]).plain())
    if len(by_task) > 1:
        means = [statistics.mean(100 * number(run["score"]) for run in runs) for runs in by_task.values()]
        print(f"\nmean of {counted(len(means), 'task')}: {statistics.mean(means):.2f}")


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def _mean(runs: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [value for run in runs if (value := number(run.get(name))) is not None]
    return statistics.mean(values) if values else None


if __name__ == "__main__":
    run_main(main)
