#!/usr/bin/env python3
"""Fine-tune BERT on SQuAD, answer its questions, score the answers.

squad_setup.py checks the command line before any work, squad_run.py builds what is trained and predicts, and
training/loop.py trains it. A run is one process on one GPU or on the CPU, or one process per GPU, started by torchrun.
"""

from errors import run_main
from squad_run import SquadRun
from squad_setup import check
from training.entry import run_entry
from training.squad_arguments import parse_arguments


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    run_entry(parse_arguments(arguments), check, SquadRun)


if __name__ == "__main__":
    run_main(main)
