"""What the commands that measure share: --help from their docstring with every default, and counts from 1 on."""

import argparse

from common.errors import Problems


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it is written, and behind the help of each flag its default, if it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def parser_of(docstring: str | None) -> argparse.ArgumentParser:
    """A parser that explains itself by a module's docstring."""
    return argparse.ArgumentParser(description=docstring, formatter_class=_Help)


def count_problems(args: argparse.Namespace, *names: str) -> Problems:
    """What is wrong with flags that count something: a number, or one of several, is below 1."""
    problems = Problems()
    for name in names:
        value = getattr(args, name)
        least = min(value) if isinstance(value, list) else value
        problems.check(least >= 1, f"--{name} is {least}", "it must be 1 or more")
    return problems
