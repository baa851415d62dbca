"""What a document is while it becomes a line of text: read from a part of a file, and cleaned of what is no prose.

What removes markup, wikiextractor or who made the Parquet of Wikipedia, leaves headings, which are lines like any
other. On a real dump 99 % of them have fewer than eight words, and hardly any paragraph has. So such a line is dropped.
"""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from data.corpus.sentences import count_words

MIN_WORDS = 8
CRUMBS = re.compile(r"^[*#:;|!{}]|\{\{|\}\}|\|\}|\[\[|\]\]")
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
    line = " ".join(text.split())
    return Document(line, count_words(line))


def prose(lines: Iterable[str], min_words: int) -> Document:
    """The lines of a document that have so many words, and nothing that looks like a list or markup; 0: all."""
    kept, n_words, n_characters = [], 0, 0
    for words in map(str.split, lines):
        paragraph = " ".join(words)
        n_characters += len(paragraph) + 1 if words else 0
        n_of_paragraph = len(words) if paragraph.isascii() else count_words(paragraph)
        if min_words == 0 or (n_of_paragraph >= min_words and not CRUMBS.search(paragraph)):
            kept.append(paragraph)
            n_words += n_of_paragraph
    line = " ".join(filter(None, kept))
    return Document(line, n_words, max(0, n_characters - 1 - len(line)))
