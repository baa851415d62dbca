#!/usr/bin/env python3
"""Fine-tune BERT on SQuAD, answer its questions, score the answers.

tasks/squad/setup.py checks the command line before any work, tasks/squad/task.py builds what is trained and predicts,
and training/loop.py trains it. A run is one process on one GPU or on the CPU, or one process per GPU, started by
torchrun.
"""

from common.errors import run_main
from tasks.squad.arguments import parse_arguments
from tasks.squad.setup import check
from tasks.squad.task import SquadRun
from training.entry import run_entry


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    run_entry(parse_arguments(arguments), check, SquadRun)


if __name__ == "__main__":
    run_main(main)
