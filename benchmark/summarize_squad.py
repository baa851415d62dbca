#!/usr/bin/env python3
"""A table of what the logs of fine-tuning say: one row for each file of questions that was scored in each log.

  python3 benchmark/summarize_squad.py results/squad/dllogger.json [LOG ...]

Where a file was scored several times in a log, the last time counts; the training throughput is that of the last start
that measured one.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.summarize import parse_logs, print_table, read_events
from benchmark.tables import number, text
from common.errors import UserError, run_main

HEADER = ("questions of", "questions", "EM", "F1", "steps", "training sequences/s", "inference sequences/s")


def read_scores(path: str | Path) -> list[list[str]]:
    """The rows of one log.

    Raises:
        UserError: the file cannot be read, is not a log, or nothing was scored in it.
    """
    scored: dict[str, dict[str, Any]] = {}
    predict_file, steps, training = "", "", None
    for event in read_events(path):
        step, data = event.get("step"), event.get("data")
        if event.get("type") != "LOG" or not isinstance(data, dict):
            continue
        if step == "PARAMETER":
            predict_file = str(data.get("arguments", {}).get("predict_file"))
        elif step == []:
            training = data.get("sequences_per_second", training)
            if "exact_match" in data:
                scored[predict_file] = {**data, "steps": steps}
        elif isinstance(step, list) and "average_loss" in data:
            steps = f"{step[-1]:,}"
    if not scored:
        raise UserError(f"{path} has no scores of SQuAD", "give the dllogger.json of run_squad.py with --do_eval")
    return [
        [
            Path(name).name,
            f"{data.get('total', 0):,}",
            text(number(data["exact_match"]), ".1f"),
            text(number(data.get("f1")), ".1f"),
            data["steps"] or "-",
            text(number(training), ",.1f"),
            text(number(data.get("inference_sequences_per_second")), ",.1f"),
        ]
        for name, data in scored.items()
    ]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return parse_logs(__doc__, arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the logs and print the table."""
    print_table(parse_arguments(arguments).logs, HEADER, read_scores)


if __name__ == "__main__":
    run_main(main)
