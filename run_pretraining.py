#!/usr/bin/env python3
"""Pre-train BERT on HDF5 shards: phase 1 at sequence length 128, phase 2 at 512.

tasks/pretraining/setup.py checks the command line before any work, tasks/pretraining/task.py builds what is trained,
and training/loop.py trains it. A run is one process on one GPU or on the CPU, or one process per GPU, started by
torchrun.
"""

from common.errors import run_main
from tasks.pretraining.arguments import parse_arguments
from tasks.pretraining.setup import check
from tasks.pretraining.task import PretrainingRun
from training.entry import run_entry


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    run_entry(parse_arguments(arguments), check, PretrainingRun)


if __name__ == "__main__":
    run_main(main)
