"""A task from the command line, under the name of its entry or as `python3 -m tasks NAME`."""

from collections.abc import Sequence

from tasks.setup import prepare
from training.config.flags import parse
from training.config.settings import SHARED, Settings
from training.entry import run_task
from training.task import Task


def parse_arguments(task: type[Task], arguments: Sequence[str] | None = None) -> Settings:
    """The settings of a task as its user gave them; None: on the process's own command line."""
    (own, *shared), record = parse(task.description, (task.flags, *SHARED), task.defaults, arguments)
    return Settings(*shared, task=own, record=record)


def run(task: type[Task], arguments: Sequence[str] | None = None) -> None:
    """Run a task as the command line asks."""
    run_task(task(parse_arguments(task, arguments)), prepare)
