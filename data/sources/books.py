"""Books from where their owner keeps them: a folder, a file, an archive, or a list of addresses.

There is no crawler: the pages that the first BookCorpus was made from forbid it, and answer with 403.
"""

import csv
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.addresses import is_remote, last_part, path_of, shown
from common.errors import Problem, UserError
from data.artifacts.layout import Layout
from data.artifacts.stage_output import Preparation
from data.document_sources import DocumentSource
from data.downloaders.folder import DownloadOptions, checked_file, download_folder, link_or_copy
from file_utils import cached_path, unpack

AT_ONCE = 2
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
RESULTS = "results.tsv"
WANTED = "a folder of .txt files, such a file, an archive of them, the address of either, or a file of addresses"


class Source(DocumentSource):
    """Text files, each of them a book."""

    name = "bookscorpus"
    document = "book"

    def problem(self, source: str | None) -> Problem | None:
        if not source:
            return Problem(f"The books need --source, {WANTED}", "or prepare Wikipedia alone, --dataset wikicorpus_en")
        path = Path(source).expanduser()
        if is_remote(source):
            known = _is_archive(source) or path_of(source).endswith(".txt")
        elif path.is_dir():
            known = bool(_texts(path))
        else:
            known = path.is_file() and (_is_archive(source) or path.suffix == ".txt" or bool(_addresses(path)))
        return None if known else _no_book_in(source)

    def download(self, preparation: Preparation, options: DownloadOptions) -> str:
        """The books, .txt files, alone. Raises UserError where they cannot be had, or too many of a list failed."""
        source = options.source
        path = Path(source).expanduser()
        files = [] if is_remote(source) else _texts(path) if path.is_dir() else [path]
        local = {(file.relative_to(path).as_posix() if path.is_dir() else file.name): file for file in files}

        def take_books(new: Path, pieces: Path) -> Mapping[str, Any]:
            facts = {}
            if _is_archive(source):
                with checked_file(source, pieces) as archive:
                    unpack(archive, new)
            elif is_remote(source):
                link_or_copy(cached_path(source, pieces), new / last_part(source))
            elif addresses := _addresses(path):
                facts = _download_list(addresses, pieces, new, options.max_failed_share)
            else:
                for name, file in local.items():
                    link_or_copy(file, new / name)
            for file in new.rglob("*"):
                if file.is_file() and file.suffix != ".txt" and file.name != RESULTS:
                    file.unlink()
            books = _texts(new)
            if not books:
                raise UserError(_no_book_in(source))
            for book in books:
                _read(book, book.relative_to(new))
            return facts

        asked = shown(source) if is_remote(source) else "local books"
        return download_folder(preparation, preparation.layout.download, "books", asked, take_books, local)

    def texts(self, layout: Layout) -> tuple[Path, Sequence[Path]]:
        """The .txt files that were downloaded, in the order of their names."""
        return layout.download, _texts(layout.download)

    def documents(self, part: tuple[Path, int]) -> list[str]:
        """The book as one line."""
        return [" ".join(_read(part[0], part[0]).split())]


def _read(book: Path, name: Path) -> str:
    """Its text. Raises UserError, which calls it by `name`, if it has none."""
    remedy = "convert it or take it away where it is from, and get the books again with --overwrite"
    try:
        text = book.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"The book {name} is not UTF-8 text ({error})", remedy) from error
    if "\0" in text:
        raise UserError(f"The book {name} holds zero bytes and is no text file", remedy)
    return text


def _no_book_in(source: str) -> Problem:
    return Problem(f"There is no book in --source {shown(source)}", f"give {WANTED}")


def _texts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.txt") if path.is_file())


def _is_archive(source: str) -> bool:
    return (path_of(source) if is_remote(source) else source).lower().endswith(ARCHIVES)


def _addresses(path: Path) -> list[str]:
    """The addresses in a file that holds nothing else but comments and empty lines; none if it is another file."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (UnicodeDecodeError, IsADirectoryError):
        return []
    addresses = [line for each in lines if (line := each.strip()) and not line.startswith("#")]
    return list(dict.fromkeys(addresses)) if all(map(is_remote, addresses)) else []


def _download_list(addresses: Sequence[str], pieces: Path, folder: Path, max_failed_share: float) -> dict[str, int]:
    """Download what can be had, with a line for each address in results.tsv; raises UserError if too much cannot."""

    def fetch(address: str) -> Path | Exception:
        try:
            return cached_path(address, pieces, progress=False)
        except (UserError, OSError) as error:
            return error

    pieces.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        results = list(tqdm(threads.map(fetch, addresses), total=len(addresses), unit="book", desc="books"))
    rows = [("address", "result", "file or error")]
    for number, (address, result) in enumerate(zip(addresses, results, strict=True)):
        if isinstance(result, Path):
            name = f"{number:06d}-{last_part(address).removesuffix('.txt')}.txt"
            link_or_copy(result, folder / name)
            rows.append((shown(address), "ok", name))
        else:
            rows.append((shown(address), "failed", " ".join(str(result).split())))
    with open(pieces / RESULTS, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)
    failures = [error for _, result, error in rows if result == "failed"]
    if len(failures) > max_failed_share * len(addresses):
        raise UserError(
            f"{len(failures)} of {len(addresses)} books could not be had, more than --max_failed_share "
            f"{max_failed_share}; see {pieces / RESULTS}, and start again to try these once more. The first: "
            f"{failures[0]}"
        )
    shutil.copyfile(pieces / RESULTS, folder / RESULTS)
    return {"asked_for": len(addresses), "failed": len(failures)}
