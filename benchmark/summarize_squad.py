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
from benchmark.summarize import markdown_table, number, text
from errors import Problems, UserError, run_main
from training.metrics import read_log

HEADER = ("questions of", "questions", "EM", "F1", "steps", "training sequences/s", "inference sequences/s")


def read_scores(path: str | Path) -> list[list[str]]:
    """The rows of one log.

    Raises:
        UserError: the file cannot be read, is not a log, or nothing was scored in it.
    """
    try:
        events = read_log(path)
    except OSError as error:
        raise UserError(f"the log {path} cannot be read ({error.strerror}); give a dllogger.json.") from error
    scored: dict[str, dict[str, Any]] = {}
    predict_file, steps, training = "", "", None
    for event in events:
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
        raise UserError(f"{path} has no scores of SQuAD; give the dllogger.json of run_squad.py with --do_eval.")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", metavar="LOG", help="the dllogger.json of a run")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the logs and print the table."""
    args = parse_arguments(arguments)
    problems = Problems()
    rows = []
    for log in args.logs:
        with problems.collect():
            rows += [[log, *row] for row in read_scores(log)]
    problems.raise_if_any()
    if len(args.logs) == 1:
        print(markdown_table(HEADER, [row[1:] for row in rows]))
    else:
        print(markdown_table(("log", *HEADER), rows))


if __name__ == "__main__":
    run_main(main)
