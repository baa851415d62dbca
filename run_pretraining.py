#!/usr/bin/env python3
"""Pre-train BERT on HDF5 shards: phase 1 at sequence length 128, phase 2 at 512.

pretraining_setup.py checks the command line before any work, pretraining_run.py builds what is trained, and
training/loop.py trains it. A run is one process on one GPU or on the CPU, or one process per GPU, started by torchrun.
"""

from errors import run_main
from pretraining_run import PretrainingRun
from pretraining_setup import check
from training.entry import run_entry
from training.pretraining_arguments import parse_arguments


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    run_entry(parse_arguments(arguments), check, PretrainingRun)


if __name__ == "__main__":
    run_main(main)
