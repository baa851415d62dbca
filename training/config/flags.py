"""Command-line flags as fields of frozen dataclasses: one place says a flag's name, type, default and help.

`parse` is the only function that sees argparse's namespace. What it returns is typed, and nothing below reads a flag by
a string. The names are those of NVIDIA's scripts.
"""

import argparse
import dataclasses
import functools
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from common.command_line import CommandLine, DefaultsFormatter
from training.config.help import Help

HELP_COLUMN = 33  # where the explanations begin in `--help`


def flag(default: Any, help: str, *names: str, positive: bool = False, title: str = "", **options: Any) -> Any:
    """A dataclass field that is a flag.

    Args:
        default: `dataclasses.MISSING` makes the flag required.
        names: as typed; by default `--` and the field's name.
        positive: the value must be above zero, see config/problems.py.
        title: what `--help` shows the flag under, where that is not its class's docstring.
        options: for argparse's `add_argument`, such as `choices`.
    """
    metadata = {"help": help, "names": names, "positive": positive, "title": title, "options": options}
    return dataclasses.field(default=default, metadata=metadata)


def parse(
    description: str,
    groups: Sequence[type],
    defaults: Mapping[str, Any],
    arguments: Sequence[str] | None = None,
    first: Sequence[str] = (),
) -> tuple[list[Any], dict[str, Any]]:
    """Read a command line into an instance of each class; and every flag by its name, for the record.

    Args:
        groups: frozen dataclasses whose fields `flag` made, in the order of `--help`.
        defaults: by field name, in place of the classes' own.
        arguments: the command line; None: the process's own.
        first: fields of the flags that `--help` explains by itself.
    """
    form = functools.partial(DefaultsFormatter, max_help_position=HELP_COLUMN)
    parser = CommandLine(description, form, usage="%(prog)s [flags]", add_help=False, full_help="--help all")
    parser.add_argument("-h", "--help", action=Help, first=first)
    titled: dict[str, Any] = {}
    for kind in groups:
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            title = field.metadata["title"] or kind.__doc__
            if title not in titled:
                titled[title] = parser.add_argument_group(title[:1].upper() + title[1:].rstrip("."))
            _add_flag(titled[title], field, hints[field.name], defaults.get(field.name, field.default))
    values = vars(parser.parse_args(arguments))
    return [kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)}) for kind in groups], values


def _add_flag(group: Any, field: dataclasses.Field, hint: Any, default: Any) -> None:
    kind = next(iter(typing.get_args(hint)), hint)  # int of int | None
    options: dict[str, Any] = {"help": field.metadata["help"], "dest": field.name}
    options |= {"required": True} if default is dataclasses.MISSING else {"default": default}
    if kind is not bool:
        options["type"] = kind
        if "choices" not in field.metadata["options"]:
            options["metavar"] = _metavar(field.name, kind)
    else:
        options["action"] = "store_true" if default is False else argparse.BooleanOptionalAction
    group.add_argument(*field.metadata["names"] or (f"--{field.name}",), **options | field.metadata["options"])


def _metavar(name: str, kind: type) -> str:
    """What stands for the value in `--help`."""
    if kind in (int, float):
        return "N" if kind is int else "X"
    return {"dir": "DIR", "file": "FILE"}.get(name.rpartition("_")[2], "NAME")
