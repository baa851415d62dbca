"""A table: cells as text, written once and shown as plain text, Markdown, HTML and CSV."""

import csv
import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

MISSING = "-"
NUMBER = re.compile(r"-|[-\d.,]+%?")


def number(value: Any) -> float | None:
    """A logged value; NaN and the infinities are strings there. None for anything that is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def text(value: float | None, form: str) -> str:
    """A cell of a table, of a number in this format."""
    if value is None:
        return MISSING
    return format(value, form) if math.isfinite(value) else str(value)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown that lines up as plain text too; the first column at the left, numbers at the right."""
    widths = [max(2, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    return "\n".join(line(cells) for cells in (header, rule, *rows))


class Table(NamedTuple):
    """A heading, sentences under it, and rows of text."""

    title: str
    notes: Sequence[str]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As in a README."""
        escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in self.rows]
        notes = "".join(f"\n{note}\n" for note in self.notes)
        return f"## {self.title}\n{notes}\n{markdown_table(self.header, escaped)}\n"

    def csv(self) -> str:
        """Header and rows."""
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([self.header, *self.rows])
        return file.getvalue()

    def html(self) -> str:
        """A section of a page. Each heading is a button, and columns of words have the class `text`."""
        textual = [any(not NUMBER.fullmatch(row[column]) for row in self.rows) for column in range(len(self.header))]
        kinds = [' class="text"' if is_text else "" for is_text in textual]
        head = "".join(
            f'<th scope="col" aria-sort="none"{kind}><button type="button">{escape(name) or "fact"}</button></th>'
            for name, kind in zip(self.header, kinds, strict=True)
        )
        body = "".join(
            f"<tr>{''.join(f'<td{kind}>{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))}</tr>"
            for row in self.rows
        )
        linked = [re.sub(r"https://[^\s;,()]+", r'<a href="\g<0>">\g<0></a>', escape(note)) for note in self.notes]
        notes = "".join(f'<p class="soft">{note}</p>' for note in linked)
        title = escape(self.title)
        return (
            f'<section><h2>{title}</h2>{notes}<div class="table" tabindex="0" role="region" aria-label="{title}">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>\n"
        )
