"""The command lines of this project: a slip is one sentence, with what was probably meant, and not a page of usage."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from common.errors import UserError
from common.version import VERSION


class DefaultsFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, where there is one to show, and keeps the description's line breaks."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_plain = action.default is None or action.default is False
        return action.help if is_plain else super()._get_help_string(action)


class CommandLine(argparse.ArgumentParser):
    """A parser that raises UserError where argparse prints its usage and ends the process.

    `full_help` is what explains all arguments.
    """

    def __init__(
        self,
        description: str,
        formatter_class: Any = argparse.RawDescriptionHelpFormatter,
        full_help: str = "--help",
        **options: Any,
    ):
        super().__init__(description=description, formatter_class=formatter_class, **options)
        self._full_help = full_help
        self.add_argument("--version", action="version", version=VERSION, help="print this project's version")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        """The values. Flags that nothing takes are told first: for their sake another one may seem to be missing."""
        words = list(sys.argv[1:] if args is None else args)
        flags = words[: words.index("--")] if "--" in words else words
        # argparse takes no word with a space for a flag: it is text of the user's.
        given = [
            name for word in flags if " " not in (name := word.partition("=")[0]) and re.match("--?[a-zA-Z]", name)
        ]
        self._refuse([flag for flag in given if not any(name.startswith(flag) for name in self._option_string_actions)])
        values, others = self.parse_known_args(words, namespace)
        self._refuse(others)
        return values

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        if choice := re.fullmatch(r"(.*invalid choice: (.*)) \(choose from (.*)\)", message):
            said, word, choices = choice.groups()
            word, choices = word.strip("'"), choices.replace("'", "")
            raise UserError(said + _meant(word, choices.split(", ")), f"choose one of {choices}")
        raise UserError(message, f"{self._full_help} explains all arguments")

    def _refuse(self, words: Sequence[str]) -> None:
        meant = (_meant("--" + word.strip("-").partition("=")[0], self._option_string_actions) for word in words)
        if words:
            said = ", ".join(map("".join, zip(words, meant, strict=True)))
            raise UserError(f"unrecognized arguments: {said}", "--help lists all flags")


def _meant(word: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, names, n=1) if word.strip("-")[:1].isalpha() else []
    return f" (did you mean {close[0]}?)" if close else ""
