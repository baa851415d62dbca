"""A table: cells as text, written once and shown as plain text, Markdown, HTML and CSV.

Cells, notes and titles hold words of logs, folders and flags. In each form they are quoted, so that none is taken for
markup, for a line of its own, or by a spreadsheet for a formula.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

MISSING, LONG = "-", 40
NUMBER = re.compile(r"-|[-\d.,]+%?")
LINK, ANCHOR = re.compile(r"https://[^\s;,()<]*[^\s;,()<.]"), r'<a href="\g<0>">\g<0></a>'
MARKUP = re.compile(r"[\\`*\[\]|~]|^[#>]|(?<!\w)_|_(?!\w)")
FORMULA = re.compile(r"\s*[=+@\-\uff1d\uff0b\uff20\uff0d]|[\t\r\n]")  # wide signs too: they are taken for these
SIGNED = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE)


def number(value: Any) -> float | None:
    """A logged value; NaN and the infinities are strings there. None for anything that is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def text(value: Any, form: str) -> str:
    """A cell of a table, of a logged value in this format of a float."""
    value = number(value)
    if value is None:
        return MISSING
    return format(value, form) if math.isfinite(value) else str(value)


def one_line(words: str) -> str:
    """Words without line breaks and control characters."""
    return "".join(sign if sign.isprintable() else " " for sign in words).strip()


def escape_markdown(words: str) -> str:
    """Words that Markdown, in a table too, shows as they are, on one line."""
    escaped = MARKUP.sub(r"\\\g<0>", one_line(words))
    return re.sub(r"&(?=#?\w+;)", "&amp;", escaped).replace("<", "&lt;")


def csv_cell(value: Any) -> Any:
    """A value that spreadsheets show as it is: what they would compute has an apostrophe in front."""
    words = str(value).replace("\r", "\n")  # which csv would write unquoted, and a row would begin after it
    if FORMULA.match(words) and not SIGNED.fullmatch(words):
        return f"'{words}"
    return words if isinstance(value, str) else value


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown that lines up as plain text too; the first column at the left, numbers at the right."""
    widths = [max(2, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    return "\n".join(line(cells) for cells in (header, rule, *rows))


class Table(NamedTuple):
    """A heading, sentences under it, and rows of cells by column."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()

    @property
    def header(self) -> list[str]:
        """Every name that any row has, in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def shown(self) -> list[str]:
        """Those under which any row has a value; all of them where there is no value at all."""
        return [
            name for name in self.header if any(row.get(name, MISSING) != MISSING for row in self.rows)
        ] or self.header

    def plain(self) -> str:
        """The rows alone, of every column: a script may count them."""
        return self._lines(self.header, lambda words: one_line(words).replace("|", "\\|"))

    def markdown(self, heading: str = "##") -> str:
        """As in a README; the heading may be left out."""
        title, *notes = map(escape_markdown, (self.title, *self.notes))
        head = [f"{heading} {title}\n"] if heading else []
        return "\n".join([*head, *(f"{note}\n" for note in notes), f"{self._lines(self.shown, escape_markdown)}\n"])

    def _lines(self, names: Sequence[str], escape_cell: Callable[[str], str]) -> str:
        rows = [names, *([row.get(name, MISSING) for name in names] for row in self.rows)]
        header, *escaped = [[escape_cell(cell) for cell in row] for row in rows]
        return markdown_table(header, escaped) if escaped else ""

    def csv(self) -> str:
        """Header and rows, and columns without any value too: programs may look for their names."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        rows = [self.header, *([row.get(name) for name in self.header] for row in self.rows)]
        writer.writerows([csv_cell(value) for value in row] for row in rows)
        return file.getvalue()

    def html(self, heading: str = "h2") -> str:
        """A part of a page. The head of each column is a button; columns of words are `text`, and long ones wrap."""
        head, rows = "", [""] * len(self.rows)
        for name in self.shown:
            cells = [row.get(name, MISSING) for row in self.rows]
            kind = "" if all(map(NUMBER.fullmatch, cells)) else ' class="text"'
            kind = ' class="text long"' if kind and max(map(len, cells)) > LONG else kind
            button = f'<button type="button">{escape(name)}</button>'
            head += f'<th scope="col" aria-sort="none"{kind}>{button}</th>'
            rows = [f"{row}<td{kind}>{escape(cell)}</td>" for row, cell in zip(rows, cells, strict=True)]
        rows = [f"<tr>{LINK.sub(ANCHOR, row)}</tr>" for row in rows]
        notes = "".join(f'<p class="soft">{LINK.sub(ANCHOR, escape(note))}</p>' for note in self.notes)
        title = escape(self.title)
        return (
            f"{f'<{heading}>{title}</{heading}>' if heading else ''}{notes}"
            f'<div class="table" tabindex="0" role="region" aria-label="{title}">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>\n"
        )
