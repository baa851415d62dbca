#!/usr/bin/env python3
"""torchrun, with its flags, that ends with the script that started it: also while it still waits for other machines.

Where the processes were stopped and saved, or trained to their last step and missed their target, it has their status:
a machine whose processes heard of a signal to another one asks to be started again too.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as run_torchrun

from common.errors import run_main
from training.distributed.stop_signal import REQUEUE_EXIT_CODE
from training.evaluation import TARGET_MISSED_EXIT_CODE


def main() -> None:
    """Run what the command line asks for. The first process to fail gives the status, if that says more than 1 does."""
    try:
        run_torchrun()
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        if status not in (REQUEUE_EXIT_CODE, TARGET_MISSED_EXIT_CODE):
            raise
        sys.exit(status)


if __name__ == "__main__":
    run_main(main)
