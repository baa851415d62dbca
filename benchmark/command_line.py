"""What the commands that measure share: --help from their docstring with every default, and counts from 1 on."""

import argparse

from common.command_line import CommandLine, DefaultsFormatter
from common.errors import Problems


def parser_of(docstring: str | None) -> CommandLine:
    """A parser that explains itself by a module's docstring."""
    return CommandLine(docstring, DefaultsFormatter)


def count_problems(args: argparse.Namespace, *names: str) -> Problems:
    """What is wrong with flags that count something: a number, or one of several, is below 1."""
    problems = Problems()
    for name in names:
        value = getattr(args, name)
        least = min(value) if isinstance(value, list) else value
        problems.check(least >= 1, f"--{name} is {least}", "it must be 1 or more")
    return problems
