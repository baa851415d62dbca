"""Runs any task: `python3 -m tasks NAME [flags]`. run_pretraining.py and the like run one under its own name."""

import sys

if __name__ == "__main__":
    __import__("common.packages").packages.explain_missing()
from common.errors import UserError, run_main
from tasks.setup import run
from tasks.table import TASKS


def main(arguments: list[str] | None = None) -> None:
    """Run the task that the first argument names."""
    name, *flags = (sys.argv[1:] if arguments is None else arguments) or [None]
    if name not in TASKS:
        raise UserError(f"there is no task {name}", f"give one of {', '.join(TASKS)}, and then its flags")
    run(TASKS[name], flags)


if __name__ == "__main__":
    run_main(main)
