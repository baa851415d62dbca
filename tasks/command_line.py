"""A task from the command line, under the name of its entry or as `python3 -m tasks NAME`."""

from collections.abc import Sequence

from tasks.setup import prepare
from training.config.settings import Settings, read_settings
from training.entry import run_task
from training.task import Task


def parse_arguments(task: type[Task], arguments: Sequence[str] | None = None) -> Settings:
    """The settings of a task as its user gave them.

    Args:
        task: whose flags they are.
        arguments: the command line; None: the process's own.
    """
    return read_settings(task.description, task.flags, task.flags_title, task.defaults, arguments)


def run(task: type[Task], arguments: Sequence[str] | None = None) -> None:
    """Run a task as the command line asks."""
    run_task(task(parse_arguments(task, arguments)), prepare)
