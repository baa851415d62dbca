"""What the commands that measure share: --help from their docstring with every default, and checks of common flags."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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


def own_and_extra(arguments: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The words before `--`, and those behind it; of this process where none are given."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])


def check_model(model: str, problems: Problems) -> None:
    """Note where `--bert_model` is no shipped model and no file."""
    from models.config import BERT_CONFIGS  # which loads PyTorch, and half of the commands have no use for it

    is_there = model in BERT_CONFIGS or (model.endswith(".json") and Path(model).is_file())
    problems.check(is_there, f"--bert_model is {model}", f"choose of {', '.join(BERT_CONFIGS)}, or a bert_config.json")
