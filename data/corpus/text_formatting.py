"""Raw text to one document per line: Wikipedia's dump by way of wikiextractor, books from text files.

wikiextractor removes the markup. What it leaves that is no prose goes here: headings, which it turns into lines of
their own that end in a full stop like any other, captions and crumbs of lists and tables. All of them are short: on a
real dump 99 % of the headings have fewer than eight words, and hardly any paragraph has. So a line of fewer is dropped.
"""

import html
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError
from common.workers import Workers
from file_utils import atomic_write

MIN_WORDS = 8
CRUMBS = re.compile(r"^[*#:;|!{}]|\{\{|\}\}|\|\}|\[\[|\]\]")
BYTES_PER_TASK = 2**20


def format_wikipedia(files: Sequence[Path], formatted: Path, pool: Workers) -> int:
    """Write the articles of extracted files one per line; returns how many have any prose.

    Raises:
        UserError: a line is no article, or nothing is prose.
    """
    results = pool.map(_format_part, _parts(files), "text_formatting", _part_name)
    return _write_documents(itertools.chain.from_iterable(results), formatted, files[0].parent if files else formatted)


def _parts(files: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    """Pieces of files, by their offsets, so that no more than these is in memory."""
    for file in files:
        for start in range(0, file.stat().st_size, BYTES_PER_TASK):
            yield file, start


def _part_name(part: tuple[Path, int]) -> str:
    return str(part[0])


def _format_part(part: tuple[Path, int]) -> list[str]:
    """The articles whose lines start in this part of the file."""
    file, start = part
    articles = []
    with open(file, "rb") as lines:
        if start:
            lines.seek(start - 1)
            lines.readline()  # the end of a line of the part before, or only its newline
        while (at := lines.tell()) < start + BYTES_PER_TASK and (line := lines.readline()):
            try:
                articles.append(_article_line(json.loads(line)["text"]))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"Line {_line_number(file, at)} of {file} is no article in wikiextractor's JSON ({error})",
                    "extract the dump again, without --skip_wikiextractor",
                ) from error
    return articles


def _line_number(file: Path, offset: int) -> int:
    with open(file, "rb") as lines:
        return sum(1 for _ in itertools.takewhile(lambda line: lines.tell() <= offset, iter(lines.readline, b""))) + 1


def _article_line(text: str) -> str:
    paragraphs = (html.unescape(line).strip() for line in text.split("\n"))
    return " ".join(" ".join(p.split()) for p in paragraphs if len(p.split()) >= MIN_WORDS and not CRUMBS.search(p))


def book_files(folder: Path) -> list[Path]:
    """The .txt files under `folder`, in the order of their names; raises UserError if there is none."""
    books = _text_files(folder)
    if not books:
        raise UserError(f"There is no .txt file under {folder}", "get books with --action download --source FOLDER")
    return books


def format_books(books: Sequence[Path], formatted: Path, pool: Workers) -> int:
    """Write text files one per line, in the order given; returns how many have any text.

    Raises:
        UserError: one is not UTF-8 text, or all are empty.
    """
    lines = pool.map(_book_line, books, "text_formatting", str)
    return _write_documents(tqdm(lines, total=len(books), unit="book", desc="books"), formatted, books[0].parent)


def _text_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.txt") if path.is_file())


def _book_line(book: Path) -> str:
    try:
        text = book.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"The book {book} is not UTF-8 text ({error})", "convert it, or take it away") from error
    if "\0" in text:
        raise UserError(f"The book {book} holds zero bytes and is no text file", "take it away")
    return " ".join(text.split())


def _write_documents(lines: Iterable[str], formatted: Path, source: Path) -> int:
    formatted.parent.mkdir(parents=True, exist_ok=True)
    n_documents = 0
    with atomic_write(formatted) as file:
        for line in lines:
            if line:
                file.write(line + "\n")
                n_documents += 1
        if n_documents == 0:
            raise UserError(f"There is no prose in any document of {source}", "check that it is what it should be")
    return n_documents
