#!/usr/bin/env python3
"""Fine-tune BERT on a task of GLUE, score it, predict its test set.

The task is tasks/glue/; tasks/setup.py resolves and validates its settings before any work, and
training/entry.py runs it: one process on one GPU or on the CPU, or one process per GPU, started by torchrun.
"""

if __name__ == "__main__":
    __import__("common.packages").packages.explain_missing()
from common.errors import run_main
from tasks.glue.task import GlueTask
from tasks.setup import run


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    run(GlueTask, arguments)


if __name__ == "__main__":
    run_main(main)
