#!/usr/bin/env python3
"""A table of what the logs of pre-training say: one row for each phase in each log.

  python3 benchmark/summarize.py results/pretraining/dllogger.json [LOG ...]

A log holds every start of its run, one after the other. A row is about the run as it stands: where training resumed
from a checkpoint, the steps after that checkpoint count as they were made the second time. The throughput is that of
the last start that measured one, the accuracy that of the evaluation after the last step.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.reports.logs import Phase, read_phases
from benchmark.tables import markdown_table, number, text
from common.errors import Problems, run_main

HEADER = (
    "phase",
    "steps",
    "loss at start",
    "loss at end",
    "held-out masked-token accuracy",
    "sequences/s",
    "tokens/s",
)


def rows_of(log: str) -> list[list[str]]:
    """A row for each phase of a log.

    Raises:
        UserError: the file cannot be read, is not a log, or has no steps.
    """
    return [[str(name), *_cells(phase)] for name, phase in read_phases(log).items()]


def _cells(phase: Phase) -> list[str]:
    known = [loss for _, loss in sorted(phase.losses.items()) if loss is not None]
    return [
        f"{max(phase.losses):,}",
        text(known[0] if known else None, ".3f"),
        text(known[-1] if known else None, ".3f"),
        text(number(phase.scores.get("eval_mlm_accuracy")), ".1%"),
        text(number(phase.throughput.get("sequences_per_second")), ",.1f"),
        text(number(phase.throughput.get("tokens_per_second")), ",.0f"),
    ]


def parse_arguments(arguments: Sequence[str] | None = None, description: str | None = __doc__) -> argparse.Namespace:
    """A command line of logs alone."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", metavar="LOG", help="the dllogger.json of a run")
    return parser.parse_args(arguments)


def main(
    arguments: Sequence[str] | None = None,
    description: str | None = __doc__,
    header: Sequence[str] = HEADER,
    rows_of: Callable[[str], list[list[str]]] = rows_of,
) -> None:
    """Read the logs and print their rows, with a column for the log where there are several.

    Raises:
        UserError: what is wrong with any of the logs.
    """
    logs = parse_arguments(arguments, description).logs
    problems = Problems()
    rows = []
    for log in logs:
        with problems.collect():
            rows += [[log, *row] for row in rows_of(log)]
    problems.raise_if_any()
    first = 0 if len(logs) > 1 else 1
    print(markdown_table(("log", *header)[first:], [row[first:] for row in rows]))


if __name__ == "__main__":
    run_main(main)
