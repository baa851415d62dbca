#!/usr/bin/env python3
"""How long runs of pre-training took to an accuracy on held-out tokens: a row for each variant, over its seeds.

  python3 benchmark/summarize_time_to_quality.py results/time_to_quality/*/seed_*/dllogger.json --targets 0.40 0.43

A log lies in VARIANT/RUN/: runs of one variant differ in the seed alone, variants in how they compute. The seconds are
wall clock from the end of the first optimizer step to the first evaluation at or above the target. Training,
evaluations and checkpoints on the way count. Starting up, the evaluation before the first step and that step do not:
they compile. Nothing is interpolated, so a target is found up to one interval of evaluations late, by all alike.
Means are over the runs that reached the target, with the standard deviation; the cell says where some did not.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.reports.time_to_quality import comparison_problems, read_timed_run, run_rows, variant_rows
from benchmark.tables import Table
from common.command_line import CommandLine
from common.errors import Problems, run_main


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("logs", nargs="+", metavar="LOG", help="the dllogger.json of a run with --evaluate_first")
    targets = "masked-LM accuracies, 0 to 1, to give the seconds to (default: the runs' --target_mlm_accuracy)"
    parser.add_argument("--targets", type=float, nargs="+", help=targets)
    about = "the variant whose seconds are divided by those of each other (default: huggingface)"
    parser.add_argument("--baseline", default="huggingface", help=about)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the logs and print both tables."""
    args = parse_arguments(arguments)
    problems, runs = Problems(), []
    for target in args.targets or ():
        problems.check(0 < target < 1, f"--targets has {target:g}", "give shares between 0 and 1, such as 0.4 for 40 %")
    for log in args.logs:
        with problems.collect():
            runs.append(read_timed_run(log))
    problems.extend(comparison_problems(runs))
    targets = args.targets or [run.target for run in runs[:1] if run.target]
    problems.check(targets or not runs, "The runs had no --target_mlm_accuracy", "give --targets")
    problems.raise_if_any()
    targets = sorted(set(targets))
    print(Table("", variant_rows(runs, targets, args.baseline)).plain())
    print()
    print(Table("", run_rows(runs, targets)).plain())
    print(f"\n{runs[0].conditions}")
    for run in runs:
        if run.n_starts > 1:
            print(f"{run.log}: resumed; its seconds are the sum of its parts, with what each later part compiled.")


if __name__ == "__main__":
    run_main(main)
