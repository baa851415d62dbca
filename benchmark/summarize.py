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

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.logs import read_phases
from benchmark.tables import Table
from common.command_line import CommandLine
from common.errors import Problems, run_main


def parse_arguments(arguments: Sequence[str] | None = None, description: str | None = __doc__) -> argparse.Namespace:
    """A command line of logs alone."""
    parser = CommandLine(description)
    parser.add_argument("logs", nargs="+", metavar="LOG", help="the dllogger.json of a run")
    return parser.parse_args(arguments)


def print_rows(logs: Sequence[str], rows_of: Callable[[str], list[dict[str, str]]]) -> None:
    """Print the rows of the logs, with a column for the log where there are several."""
    problems = Problems()
    rows: list[dict[str, str]] = []
    for log in logs:
        with problems.collect():
            rows += [({"log": log} if len(logs) > 1 else {}) | row for row in rows_of(log)]
    problems.raise_if_any()
    print(Table("", rows).plain())


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the logs and print the table."""
    logs = parse_arguments(arguments).logs
    print_rows(logs, lambda log: [{"phase": str(name)} | phase.cells() for name, phase in read_phases(log).items()])


if __name__ == "__main__":
    run_main(main)
