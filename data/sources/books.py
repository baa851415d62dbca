"""Books from where their owner keeps them: a folder, a file, an archive, or a list of addresses.

There is no crawler: the pages that the first BookCorpus was made from forbid it, and answer with 403.
"""

import csv
import functools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

from tqdm import tqdm

from common.addresses import is_remote, last_part, path_of, shown
from common.errors import Problem, UserError
from data.artifacts.layout import Layout
from data.artifacts.manifest import LeftOut
from data.artifacts.stage_output import Preparation
from data.corpus.documents import Document, FormatOptions, Part, as_it_is
from data.corpus.sharding import MAX_DOCUMENT_BYTES
from data.corpus.text_files import texts_in, why_not
from data.document_sources import DocumentSource
from data.downloaders.folder import DownloadOptions, addresses_in, checked_file, download_folder, link_or_copy
from file_utils import LINK, cached_path, unpack

AT_ONCE = 2
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
RESULTS = "results.tsv"
REMEDY = "convert it or take it away where it is from, and get the books again with --overwrite"
WANTED = "a folder of .txt files, such a file, an archive of them, the address of either, or a file of addresses"


class Source(DocumentSource):
    """Text files, each of them a book."""

    name = "bookscorpus"
    document = "book"

    def problems(self, options: DownloadOptions) -> Iterator[Problem]:
        source = options.source
        if not source:
            yield Problem(f"The books need --source, {WANTED}", "or prepare Wikipedia alone, --dataset wikicorpus_en")
            return
        path, left_out = Path(source).expanduser(), LeftOut()
        if is_remote(source):
            known = _is_archive(source) or _is_text(path_of(source))
        elif path.is_dir():
            texts, left_out = texts_in(path)
            known = bool(texts)
        else:
            known = path.is_file() and (_is_archive(source) or _is_text(path.name) or bool(addresses_in(path)))
        if not known:
            yield _no_book_in(source, left_out)

    def download(self, preparation: Preparation, options: DownloadOptions) -> str:
        """The books, .txt files, alone. Raises UserError where they cannot be had, or too many cannot be used."""
        source = options.source
        path, is_folder = Path(source).expanduser(), not is_remote(source) and Path(source).expanduser().is_dir()
        found, left_out = texts_in(path) if is_folder else ({}, LeftOut())
        failed = {name: problem for name, file in found.items() if (problem := _file_problem(file, name))}
        local = {name: file for name, file in found.items() if name not in failed}
        if not is_folder and not is_remote(source):
            local = {path.name: path}

        def take_books(new: Path, pieces: Path) -> Mapping[str, Any]:
            if not is_folder and _is_archive(source):
                with checked_file(source, pieces) as archive:
                    unpack(archive, new, functools.partial(_leave_out, left_out, failed))
            elif is_remote(source):
                link_or_copy(cached_path(source, pieces), new / last_part(source))
            elif not is_folder and (addresses := addresses_in(path)):
                return _download_list(addresses, pieces, new, options.max_failed_share)
            else:
                for name, file in local.items():
                    link_or_copy(file, new / name)
            try:
                _remove_unreadable(texts_in(new)[0], failed, options.max_failed_share)
            except UserError:
                if is_remote(source):  # or the next start would take it for finished
                    cached_path(source, pieces, progress=False).unlink()
                raise
            if not texts_in(new)[0]:
                raise UserError(_no_book_in(source, left_out))
            for problem in failed.values():
                left_out.add("that cannot be used", problem.problem)
            return {"left_out": left_out} if left_out else {}

        asked = shown(source) if is_remote(source) else "local books"
        return download_folder(preparation, preparation.layout.download, "books", asked, take_books, local)

    def texts(self, layout: Layout) -> tuple[Path, Sequence[Path]]:
        """The .txt files that were downloaded, in the order of their names."""
        return layout.download, list(texts_in(layout.download)[0].values())

    def documents(self, part: Part, options: FormatOptions) -> Iterator[Document]:
        """The book as one line."""
        yield as_it_is(_read(part.file, part.file))


def _file_problem(book: Path, name: str | Path) -> Problem | None:
    """Why a file, which is called `name`, is not to be read."""
    if (size := book.stat().st_size) > MAX_DOCUMENT_BYTES:
        return Problem(f"The book {name} has {size:,} bytes, and a document may have {MAX_DOCUMENT_BYTES:,}", REMEDY)
    return None if os.access(book, os.R_OK) else Problem(f"The book {name} may not be read", REMEDY)


def _read(book: Path, name: str | Path) -> str:
    """Its text. Raises UserError, which calls it by `name`, if it has none."""
    if problem := _file_problem(book, name):
        raise UserError(problem)
    try:
        text = book.read_text(encoding="utf-8-sig", errors="surrogatepass")
    except UnicodeDecodeError as error:
        raise UserError(f"The book {name} is not UTF-8 text ({error})", REMEDY) from error
    if "\0" in text:
        raise UserError(f"The book {name} holds zero bytes and is no text file", REMEDY)
    return text


def _leave_out(left_out: LeftOut, failed: dict[str, Problem], member: str, problem: str) -> bool:
    """Whether to go without a member of an archive; what should have been a book counts as failed."""
    name = PurePath(member.replace("\\", "/"))
    if reason := why_not(name) or (problem if problem == LINK else None):
        left_out.add(reason, name.as_posix())
    elif problem:
        failed[name.as_posix()] = Problem(f"The book {name} cannot be unpacked ({problem})", REMEDY)
    return bool(reason or problem)


def _remove_unreadable(books: Mapping[str, Path], failed: dict[str, Problem], max_failed_share: float) -> None:
    """Move the books that are no text to those that failed. Raises UserError, with all of these, if too many did."""
    n_books = len(books) + len(failed)
    for name, book in books.items():
        try:
            _read(book, name)
        except UserError as error:
            failed[name] = error.problems[0]
            book.unlink()
    if len(failed) > max_failed_share * n_books:
        share = f"{len(failed)} of {n_books} books cannot be used, more than --max_failed_share {max_failed_share}"
        remedy = "mend them, or give a larger share to leave them out"
        raise UserError([*(failed[name] for name in sorted(failed)), Problem(share, remedy)])


def _no_book_in(source: str, left_out: LeftOut) -> Problem:
    return Problem(f"There is no book in --source {shown(source)}{left_out}", f"give {WANTED}")


def _is_text(name: str) -> bool:
    return name.lower().endswith(".txt")


def _is_archive(source: str) -> bool:
    return (path_of(source) if is_remote(source) else source).lower().endswith(ARCHIVES)


def _download_list(addresses: Sequence[str], pieces: Path, folder: Path, max_failed_share: float) -> dict[str, int]:
    """Download what can be had, with a line for each address in results.tsv; raises UserError if too much cannot."""

    def fetch(address: str) -> Path | Exception:
        try:
            with checked_file(address, pieces, progress=False) as book:
                _read(book, shown(address))
                return book
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
