#!/usr/bin/env python3
"""torchrun, with its flags, that ends with the script that started it: also while it still waits for other machines."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from torch.distributed.run import main

from common.errors import run_main

if __name__ == "__main__":
    run_main(main)
