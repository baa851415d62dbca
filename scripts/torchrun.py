#!/usr/bin/env python3
"""torchrun, with its flags, that ends with the script that started it: also while it still waits for other machines.

Where the processes ended because they trained to their last step and missed their target, it has their status.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as run_torchrun

from common.errors import run_main
from training.evaluation import TARGET_MISSED_EXIT_CODE


def main() -> None:
    """Run what the command line asks for; the status is that of the first process to fail where it missed a target."""
    try:
        run_torchrun()
    except ChildFailedError as error:
        if error.get_first_failure()[1].exitcode != TARGET_MISSED_EXIT_CODE:
            raise
        sys.exit(TARGET_MISSED_EXIT_CODE)


if __name__ == "__main__":
    run_main(main)
