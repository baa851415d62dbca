#!/usr/bin/env python3
"""Pre-train BERT on HDF5 shards: phase 1 at sequence length 128, phase 2 at 512.

The task is tasks/pretraining/; tasks/setup.py resolves and validates its settings before any work, and
training/entry.py runs it: one process on one GPU or on the CPU, or one process per GPU, started by torchrun.
"""

if __name__ == "__main__":
    __import__("common.packages").packages.explain_missing()
from common.errors import run_main
from tasks.pretraining.task import PretrainingTask
from tasks.setup import run


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    run(PretrainingTask, arguments)


if __name__ == "__main__":
    run_main(main)
