#!/usr/bin/env python3
"""A table of what the logs of fine-tuning say: one row for each file of questions that was scored in each log.

  python3 benchmark/summarize_squad.py results/squad/dllogger.json [LOG ...]

Where a file was scored several times in a log, the last time counts; the training throughput is that of the last start
that measured one.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark import summarize
from benchmark.logs import read_run
from benchmark.tables import text
from common.errors import UserError, run_main

parse_arguments = functools.partial(summarize.parse_arguments, description=__doc__)


def rows_of(log: str) -> list[dict[str, str]]:
    """A row for each file of questions, by column."""
    run = read_run(log)
    if not run.scored:
        raise UserError(f"{log} has no scores of SQuAD", "give the dllogger.json of run_squad.py with --do_eval")
    trained = run.phases[1].throughput if run.phases else {}
    return [
        {
            "questions of": Path(name).name,
            "questions": text(scores.get("total"), ",.0f"),
            "EM": text(scores["exact_match"], ".1f"),
            "F1": text(scores.get("f1"), ".1f"),
            "steps": text(scores["steps"], ",.0f"),
            "training sequences/s": text(trained.get("sequences_per_second"), ",.1f"),
            "inference sequences/s": text(scores.get("inference_sequences_per_second"), ",.1f"),
        }
        for name, scores in run.scored.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the logs and print the table."""
    summarize.print_rows(parse_arguments(arguments).logs, rows_of)


if __name__ == "__main__":
    run_main(main)
