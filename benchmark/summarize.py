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
from benchmark.reports.logs import read_phases
from benchmark.tables import markdown_table, number, text
from common.errors import Problems, run_main


def rows_of(log: str) -> list[dict[str, str]]:
    """A row for each phase of a log, by column.

    Raises:
        UserError: the file cannot be read, is not a log, or has no steps.
    """
    rows = []
    for name, phase in read_phases(log).items():
        losses = [loss for _, loss in phase.curve("average_loss")] or [None]
        row = {"phase": str(name), "steps": f"{max(phase.steps):,}"}
        row |= {"loss at start": text(losses[0], ".3f"), "loss at end": text(losses[-1], ".3f")}
        row["held-out masked-token accuracy"] = text(number(phase.scores.get("eval_mlm_accuracy")), ".1%")
        row["sequences/s"] = text(phase.rate("sequences_per_second"), ",.1f")
        rows.append(row | {"tokens/s": text(phase.rate("tokens_per_second"), ",.0f")})
    return rows


def parse_arguments(arguments: Sequence[str] | None = None, description: str | None = __doc__) -> argparse.Namespace:
    """A command line of logs alone."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", metavar="LOG", help="the dllogger.json of a run")
    return parser.parse_args(arguments)


def print_rows(logs: Sequence[str], rows_of: Callable[[str], list[dict[str, str]]]) -> None:
    """Print the rows of the logs, with a column for the log where there are several.

    Raises:
        UserError: what is wrong with any of the logs.
    """
    problems = Problems()
    rows: list[dict[str, str]] = []
    for log in logs:
        with problems.collect():
            rows += [({"log": log} if len(logs) > 1 else {}) | row for row in rows_of(log)]
    problems.raise_if_any()
    print(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the logs and print the table."""
    print_rows(parse_arguments(arguments).logs, rows_of)


if __name__ == "__main__":
    run_main(main)
