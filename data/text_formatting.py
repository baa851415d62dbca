"""Raw text to one document per line: Wikipedia's dump by way of wikiextractor, books from text files.

wikiextractor removes the markup. What it leaves that is no prose goes here: headings, which it turns into lines of
their own that end in a full stop like any other, captions and crumbs of lists and tables. All of them are short: on a
real dump 99 % of the headings have fewer than eight words, and hardly any paragraph has. So a line of fewer is dropped.
"""

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from errors import UserError
from file_utils import atomic_write

MIN_WORDS = 8
CRUMBS = re.compile(r"^[*#:;|!{}]|\{\{|\}\}|\|\}|\[\[|\]\]")
ARTICLES_WRITTEN = re.compile(r"wrote (\d+) article")


def extract_wikipedia(dump: Path, extracted: Path, n_processes: int) -> int:
    """Run wikiextractor on a dump (.xml or .xml.bz2) and put its files at `extracted`, replacing what was there.

    Returns:
        the number of articles, which wikiextractor's own count must confirm.

    Raises:
        UserError: there is no dump, wikiextractor fails, or counts differ or are zero.
    """
    if not dump.is_file():
        raise UserError(f"There is no Wikipedia dump at {dump}; get one with --action download --source FILE.")
    extracted.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".extracting.", dir=extracted.parent) as scratch:
        output = Path(scratch) / extracted.name
        output.mkdir()
        command = ["-m", "wikiextractor.WikiExtractor", str(dump), "--json", "--bytes", "100M", "--output", str(output)]
        finished = subprocess.run(
            [sys.executable, *command, "--processes", str(n_processes)],
            capture_output=True,
            text=True,
            errors="replace",
        )
        if finished.returncode != 0:
            last_line = (finished.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(
                f"wikiextractor failed on {dump} with exit code {finished.returncode} ({last_line}); check that the "
                "dump is whole, for example with bzip2 --test, and fetch it again if not."
            )
        announced = ARTICLES_WRITTEN.search(finished.stderr)
        found = sum(1 for _ in _articles(output))
        if found == 0:
            raise UserError(f"wikiextractor found no article in {dump}; check that it is a pages-articles dump.")
        if announced is None or int(announced[1]) != found:
            count = announced[1] if announced else "no number of"
            raise UserError(f"wikiextractor announced {count} articles of {dump} and wrote {found}; start again.")
        shutil.rmtree(extracted, ignore_errors=True)
        output.rename(extracted)
    return found


def format_wikipedia(extracted: Path, formatted: Path) -> int:
    """Write the articles under `extracted` one per line; returns how many have any prose.

    Raises:
        UserError: there is nothing extracted, or nothing in it is prose.
    """
    if not extracted.is_dir():
        raise UserError(f"There is no folder {extracted} of extracted articles; leave --skip_wikiextractor out.")
    return _write_documents(map(_article_line, _articles(extracted)), formatted, extracted)


def _articles(extracted: Path) -> Iterator[str]:
    """The text of each article that wikiextractor wrote, in its order."""
    for file in sorted(path for path in extracted.rglob("wiki_*") if path.is_file()):
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield json.loads(line)["text"]
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(
                        f"Line {number} of {file} is no article in wikiextractor's JSON ({error}); extract the dump "
                        "again, without --skip_wikiextractor."
                    ) from error


def _article_line(text: str) -> str:
    paragraphs = (html.unescape(line).strip() for line in text.split("\n"))
    return " ".join(" ".join(p.split()) for p in paragraphs if len(p.split()) >= MIN_WORDS and not CRUMBS.search(p))


def format_books(folder: Path, formatted: Path) -> int:
    """Write the .txt files under `folder` one per line, in the order of their names; returns how many have any text.

    Raises:
        UserError: there is no .txt file, one is not UTF-8 text, or all are empty.
    """
    books = _text_files(folder)
    if not books:
        raise UserError(f"There is no .txt file under {folder}; get books with --action download --source FOLDER.")
    return _write_documents((_book_line(book) for book in tqdm(books, unit="book", desc="books")), formatted, folder)


def _text_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.txt") if path.is_file())


def _book_line(book: Path) -> str:
    try:
        text = book.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"The book {book} is not UTF-8 text ({error}); convert it, or take it away.") from error
    if "\0" in text:
        raise UserError(f"The book {book} holds zero bytes and is no text file; take it away.")
    return " ".join(text.split())


def _write_documents(lines: Iterator[str], formatted: Path, source: Path) -> int:
    formatted.parent.mkdir(parents=True, exist_ok=True)
    n_documents = 0
    with atomic_write(formatted) as file:
        for line in lines:
            if line:
                file.write(line + "\n")
                n_documents += 1
        if n_documents == 0:
            raise UserError(f"There is no prose in any document of {source}; check that it is what it should be.")
    return n_documents


def fetch_local(source: Path, destination: Path, wanted: str) -> None:
    """Copy a local dump to the file, or books to the folder, `destination`.

    Args:
        wanted: "dump" for a .bz2 file, "books" for a .txt file or a folder that holds some.

    Raises:
        UserError: the source is not there or not what is wanted.
    """
    if wanted == "dump":
        if not source.is_file():
            raise UserError(f"There is no file {source}; give --source a Wikipedia dump (.xml.bz2).")
        with open(source, "rb") as file:
            if file.read(3) != b"BZh":
                raise UserError(f"{source} is not a .bz2 file; give --source a Wikipedia dump as it is downloaded.")
        _copy(source, destination)
        return
    if not source.exists():
        raise UserError(f"There is no {source}; give --source a folder of .txt files, or one such file.")
    books = [source] if source.is_file() else _text_files(source)
    if not books or any(book.suffix != ".txt" for book in books):
        raise UserError(f"{source} is no .txt file and holds none; give --source a folder of books as .txt files.")
    for book in books:
        _copy(book, destination / (book.name if source.is_file() else book.relative_to(source)))


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    with open(source, "rb") as reader, atomic_write(destination, "wb") as writer:
        shutil.copyfileobj(reader, writer, 2**20)
