"""Command-line flags as fields of frozen dataclasses: one place says a flag's name, type, default and help.

`parse` is the only function that sees argparse's namespace. What it returns is typed, and nothing below reads a flag by
a string. The names are those of NVIDIA's scripts.
"""

import argparse
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, where there is one to show, and keeps the description's line breaks."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def flag(default: Any, help: str, *names: str, positive: bool = False, title: str = "", **options: Any) -> Any:
    """A dataclass field that is a flag.

    Args:
        default: of the field; `dataclasses.MISSING` makes the flag required.
        help: what the flag does, and in which unit.
        names: as typed; by default `--` and the field's name.
        positive: the value must be above zero, see `not_positive`.
        title: what `--help` shows the flag under, where that is not its class's title.
        options: for argparse's `add_argument`, such as `choices`.
    """
    metadata = {"help": help, "names": names, "positive": positive, "title": title, "options": options}
    return dataclasses.field(default=default, metadata=metadata)


def parse(
    description: str,
    groups: Mapping[type, str],
    defaults: Mapping[str, Any],
    arguments: Sequence[str] | None = None,
) -> tuple[dict[type, Any], dict[str, Any]]:
    """Read a command line.

    Args:
        description: what `--help` begins with.
        groups: frozen dataclasses whose fields `flag` made, each with its title in `--help`, in that order.
        defaults: by field name, in place of the classes' own.
        arguments: the command line; None: the process's own.

    Returns:
        an instance of each class, by class; and every flag by its name, for the record.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    placed = [(_title(field, groups[kind]), kind, field) for kind in groups for field in dataclasses.fields(kind)]
    # What a class adds under another class's title comes behind that class's own.
    placed.sort(key=lambda entry: entry[0] in groups.values() and entry[0] != groups[entry[1]])
    titled = {title: parser.add_argument_group(title) for title in dict.fromkeys(title for title, _, _ in placed)}
    hints = {kind: typing.get_type_hints(kind) for kind in groups}
    for title, kind, field in placed:
        default = defaults.get(field.name, field.default)
        _add_flag(titled[title], field, _plain_type(hints[kind][field.name]), default)
    values = vars(parser.parse_args(arguments))
    of_kind = {kind: {field.name: values[field.name] for field in dataclasses.fields(kind)} for kind in groups}
    return {kind: kind(**of_kind[kind]) for kind in groups}, values


def not_positive(group: Any) -> list[tuple[str, Any]]:
    """(typed name, value) of each flag of a group that is given, must be above zero, and is not."""
    found = []
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if field.metadata.get("positive") and value is not None and not value > 0:
            found.append((field.name, value))
    return found


def _title(field: dataclasses.Field, of_class: str) -> str:
    return field.metadata["title"] or of_class


def _add_flag(group: Any, field: dataclasses.Field, kind: type, default: Any) -> None:
    options: dict[str, Any] = {"help": field.metadata["help"], "dest": field.name}
    options |= {"required": True} if default is dataclasses.MISSING else {"default": default}
    if kind is not bool:
        options["type"] = kind
    else:
        options["action"] = "store_true" if default is False else argparse.BooleanOptionalAction
    names = field.metadata["names"] or (f"--{field.name}",)
    group.add_argument(*names, **options | field.metadata["options"])


def _plain_type(hint: Any) -> type:
    """`int` of `int | None`."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0] if kinds else hint
