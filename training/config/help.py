"""`--help` of commands with a hundred flags: ten to begin with and the names of all, and the rest when it is asked for.

`--help all` explains every flag, `--help WORD` those with this word in their names or their group's title.
"""

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any

from common.errors import UserError

Sections = list[tuple[str, list[argparse.Action]]]


class Help(argparse.Action):
    """The flag `--help`, with or without a word. `first` names the fields of the flags to begin with, in order."""

    def __init__(self, option_strings: Sequence[str], dest: str, first: Sequence[str], **options: Any):
        explained = "all, or a word: explain all flags, or those with this word in their names or their group's title"
        super().__init__(option_strings, argparse.SUPPRESS, "?", metavar="WORD", help=explained, **options)
        self._first = first

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        """Print what was asked for and end the process. Raises UserError where no flag has the word."""
        first, groups = self._sections(parser)
        names = ""
        if values is None:
            names = _names(parser, groups)
            groups = first
        elif values == "all":
            groups = first + groups
        else:
            groups = _with_word(values.lower(), first + groups)
            if not groups:
                raise UserError(f"no flag and no group of flags has {values!r} in its name", "--help names all flags")
        _print(parser, groups, names, begins=values in (None, "all"))
        parser.exit()

    def _sections(self, parser: argparse.ArgumentParser) -> tuple[Sections, Sections]:
        """The flags to begin with; all others by group."""
        by_name = {action.dest: action for action in parser._actions}
        first = [by_name[name] for name in self._first]
        groups = [
            (group.title, [action for action in group._group_actions if action not in first])
            for group in parser._action_groups
        ]
        return [("Flags to begin with", first)] if first else [], [group for group in groups if group[1]]


def _with_word(word: str, groups: Sections) -> Sections:
    found = []
    for title, actions in groups:
        has_word = [action for action in actions if any(word in name.lower() for name in action.option_strings)]
        if actions_found := actions if word in title.lower() else has_word:
            found.append((title, actions_found))
    return found


def _print(parser: argparse.ArgumentParser, groups: Sections, names: str, begins: bool) -> None:
    formatter = parser._get_formatter()
    if begins:
        formatter.add_usage(parser.usage, parser._actions, [])
        formatter.add_text(parser.description)
    for title, actions in groups:
        formatter.start_section(title)
        formatter.add_arguments(actions)
        formatter.end_section()
    print(formatter.format_help().rstrip() + "\n" + names, end="")


def _names(parser: argparse.ArgumentParser, groups: Sections) -> str:
    """The names of all other flags, by group."""
    width, lines = parser._get_formatter()._width, []
    for title, actions in groups:
        names = " ".join(action.option_strings[0] for action in actions if not isinstance(action, Help))
        if not names:
            continue
        indented = {"initial_indent": "  ", "subsequent_indent": "  ", "break_on_hyphens": False}
        lines += [f"{title}:", *textwrap.wrap(names, width, break_long_words=False, **indented)]
    how = "--help all explains every flag, --help WORD those with WORD in their names or their group's title."
    return "\n".join(["", "All other flags, by name:", "", *lines, "", *textwrap.wrap(how, width), ""])
