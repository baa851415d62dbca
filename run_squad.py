#!/usr/bin/env python3
"""Fine-tune BERT on SQuAD, answer its questions, score the answers.

The task is tasks/squad/; tasks/setup.py resolves and validates its settings before any work, and
training/entry.py runs it: one process on one GPU or on the CPU, or one process per GPU, started by torchrun.
"""

if __name__ == "__main__":
    __import__("common.packages").packages.explain_missing()
from common.errors import run_main
from tasks.setup import run
from tasks.squad.task import SquadTask


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    run(SquadTask, arguments)


if __name__ == "__main__":
    run_main(main)
