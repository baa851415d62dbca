"""What a document is while it becomes a line of text: read from a part of a file, and cleaned of what is no prose.

What removes markup, wikiextractor or who made the Parquet of Wikipedia, leaves headings, which are lines like any
other. On a real dump 99 % of them have fewer than eight words, and hardly any paragraph has. So such a line is dropped.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from data.corpus.sentences import count_words

MIN_WORDS = 8
FIRST_CRUMBS = tuple("*#:;|!{}")  # what begins a line of a list or of a table
CRUMBS = ("{{", "}}", "|}", "[[", "]]")
WHOLE_FILES, LINES = "file", "line"  # which a document is, of plain text


@dataclasses.dataclass(frozen=True)
class FormatOptions:
    """How documents are read and cleaned; names as on the command line."""

    text_column: str = "text"
    text_documents: str = WHOLE_FILES
    min_words: int = MIN_WORDS
    max_failed_share: float = 0.05


class Part(NamedTuple):
    """A piece of a file that a worker formats at once."""

    file: Path
    start: int = 0  # a byte of the file, or a row group


class Document(NamedTuple):
    """A document as one line, without its end; empty if there is no prose in it."""

    line: str
    n_words: int
    n_left_out: int = 0  # characters that are not in the line


class Failure(NamedTuple):
    """Stands in the place of a document that cannot be used."""

    reason: str  # what the line or row does, such as "is not JSON"


def as_it_is(text: str) -> Document:
    """All of a text, with one blank where there is white space."""
    return Document(*_joined(text.split()))


def prose(lines: Iterable[str], min_words: int) -> Document:
    """The lines of a document that have so many words, and nothing that looks like a list or markup; 0: all."""
    kept, n_words, n_characters = [], 0, 0
    for words in filter(None, map(str.split, lines)):
        paragraph, n_of_paragraph = _joined(words)
        n_characters += len(paragraph) + 1
        if min_words == 0 or (n_of_paragraph >= min_words and not _is_markup(paragraph)):
            kept.append(paragraph)
            n_words += n_of_paragraph
    line = " ".join(kept)
    return Document(line, n_words, max(0, n_characters - 1 - len(line)))


def _joined(words: list[str]) -> tuple[str, int]:
    """What spaces separate, as one text; and how many words these are."""
    text = " ".join(words)
    return text, len(words) if text.isascii() else count_words(text)


def _is_markup(paragraph: str) -> bool:
    # A regular expression of all of these takes as long as the rest of `prose`.
    return paragraph.startswith(FIRST_CRUMBS) or any(crumb in paragraph for crumb in CRUMBS)
