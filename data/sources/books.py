"""Books from where their owner keeps them: a folder, a file, an archive, or a list of addresses.

There is no crawler: the pages that the first BookCorpus was made from forbid it, and answer with 403. A list of
addresses is downloaded politely, a few files at a time and fewer from one host, with a result for each; some may fail.
"""

import collections
import csv
import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from common.errors import Problem, UserError
from common.remote_files import is_remote, last_part, shown
from data.artifacts.layout import Layout
from data.artifacts.manifest import FileRecord
from data.artifacts.stage_output import Preparation
from data.downloaders.document_source import DocumentSource
from data.downloaders.folder import DownloadFolder, DownloadOptions, link_or_copy
from file_utils import cached_path, unpack

AT_ONCE, AT_ONCE_PER_HOST = 4, 2
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
RESULTS = "results.tsv"
WANTED = "a folder of .txt files, such a file, an archive of them, the address of either, or a file of addresses"


class Source(DocumentSource):
    """Text files, each of them a book."""

    name = "bookscorpus"
    document = "book"
    counted_as = "books"

    def problem(self, source: str | None) -> Problem | None:
        give = f"give --source {WANTED}"
        if not source:
            return Problem(f"The books need --source, {WANTED}", "or prepare Wikipedia alone, --dataset wikicorpus_en")
        if is_remote(source):
            known = _is_archive(source) or urlsplit(source).path.endswith(".txt")
            return None if known else Problem(f"--source {shown(source)} is not {WANTED}.")
        path = Path(source).expanduser()
        if not path.exists():
            return Problem(f"There is no {source}", give)
        if path.is_dir():
            return None if _texts(path) else Problem(f"There is no .txt file under {source}", give)
        known = _is_archive(source) or path.suffix == ".txt" or _addresses(path)
        return None if known else Problem(f"{source} is not {WANTED}.")

    def download(self, preparation: Preparation, options: DownloadOptions) -> str:
        """Put the books, .txt files, into their folder, which then holds these alone.

        Raises:
            UserError: they cannot be had, one is no text, or too many of a list failed.
        """
        source, folder = options.source, preparation.layout.download
        path = Path(source).expanduser()
        local = [] if is_remote(source) else _texts(path) if path.is_dir() else [path]
        records = preparation.records(local, "checking the books")
        inputs = {_relative(file, path): record for file, record in records.items()}
        target = DownloadFolder(preparation, folder, shown(source) if is_remote(source) else "local books", inputs)
        if manifest := target.finished():
            return f"{len(manifest.outputs)} files of books were downloaded before and are as they were: {folder}"

        def take_books(new: Path) -> tuple[Mapping[str, FileRecord], Mapping[str, Any]]:
            facts = {}
            if local and (addresses := _addresses(path)):
                facts = _download_list(addresses, target.cache, new, options.max_failed_share)
            elif _is_archive(source):
                unpack(cached_path(source, target.cache), new)
            elif is_remote(source):
                link_or_copy(cached_path(source, target.cache), new / last_part(source))
            else:
                for file in local:
                    link_or_copy(file, new / _relative(file, path))
            return _records(new, source, preparation), facts

        manifest = target.fill(take_books)
        n_failed = manifest.facts.get("failed")
        failed = f"; {n_failed} failed, see {folder / RESULTS}" if n_failed else ""
        return f"{sum(name.endswith('.txt') for name in manifest.outputs):,} books in {folder}{failed}"

    def texts(self, layout: Layout) -> tuple[Path, Sequence[Path]]:
        """The .txt files that were downloaded, in the order of their names."""
        books = _texts(layout.download)
        if not books:
            raise UserError(
                f"There is no .txt file under {layout.download}", "get books with --action download --source FOLDER"
            )
        return layout.download, books

    def documents(self, part: Path) -> list[str]:
        """The book as one line."""
        return [" ".join(_read(part, f"The book {part}").split())]


def _relative(file: Path, source: Path) -> str:
    return (file.relative_to(source) if source.is_dir() else Path(file.name)).as_posix()


def _texts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.txt") if path.is_file())


def _is_archive(source: str) -> bool:
    return (urlsplit(source).path if is_remote(source) else source).lower().endswith(ARCHIVES)


def _records(folder: Path, source: str, preparation: Preparation) -> dict[str, FileRecord]:
    """What lies in the folder, after removing what is no book."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".txt" and path.name != RESULTS:
            path.unlink()
    texts = _texts(folder)
    if not texts:
        where = shown(source) if is_remote(source) else source
        raise UserError(f"There is no .txt file in {where}", f"give --source {WANTED}")
    names = [f"The book {_relative(text, folder)}" for text in texts]
    for _ in preparation.pool.map(_check_book, zip(texts, names, strict=True), "reading the books", _named):
        pass
    records = preparation.records([*texts, *folder.glob(RESULTS)], "hashing the books")
    return {_relative(file, folder): record for file, record in records.items()}


def _named(book: tuple[Path, str]) -> str:
    return str(book[0])


def _check_book(book: tuple[Path, str]) -> None:
    _read(*book)


def _read(book: Path, what: str) -> str:
    try:
        text = book.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not UTF-8 text ({error})", "convert it, or take it away") from error
    if "\0" in text:
        raise UserError(f"{what} holds zero bytes and is no text file", "take it away")
    return text


def _addresses(path: Path) -> list[str]:
    """The addresses in a file that holds nothing else but comments and empty lines; none if it is another file."""
    addresses = []
    try:
        with open(path, encoding="utf-8") as lines:
            for line in map(str.strip, lines):
                if line and not line.startswith("#"):
                    if not is_remote(line):
                        return []
                    addresses.append(line)
    except (UnicodeDecodeError, IsADirectoryError):
        return []
    return list(dict.fromkeys(addresses))


def _download_list(addresses: Sequence[str], cache: Path, folder: Path, max_failed_share: float) -> dict[str, int]:
    """Download what can be had, with a line for each address in results.tsv; raises UserError if too much cannot."""
    turns: Mapping[str, threading.Semaphore] = collections.defaultdict(lambda: threading.Semaphore(AT_ONCE_PER_HOST))
    hosts = {address: turns[address.split("/")[2]] for address in addresses}  # urlsplit refuses some

    def fetch(address: str) -> Path | UserError:
        with hosts[address]:
            try:
                return cached_path(address, cache, progress=False)
            except UserError as error:
                return error
            except (ValueError, OSError) as error:
                return UserError(f"{address} cannot be fetched ({error}).")

    cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        results = list(tqdm(threads.map(fetch, addresses), total=len(addresses), unit="book", desc="books"))
    failed = {address: error for address, error in zip(addresses, results, strict=True) if isinstance(error, UserError)}
    rows = []
    for number, (address, result) in enumerate(zip(addresses, results, strict=True)):
        if address in failed:
            rows.append((address, "failed", "", " ".join(failed[address].sentences)))
            continue
        name = f"{number:06d}-{last_part(address).removesuffix('.txt')}.txt"
        link_or_copy(result, folder / name)
        rows.append((address, "ok", result.stat().st_size, name))
    _write_results(cache / RESULTS, rows)
    if len(failed) > max_failed_share * len(addresses):
        first = next(iter(failed.values())).sentences[0]
        raise UserError(
            f"{len(failed)} of {len(addresses)} books could not be had, more than --max_failed_share "
            f"{max_failed_share}; see {cache / RESULTS}, and start again to try these once more. The first: {first}"
        )
    shutil.copyfile(cache / RESULTS, folder / RESULTS)
    return {"asked_for": len(addresses), "failed": len(failed)}


def _write_results(path: Path, rows: Sequence[tuple]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("address", "result", "bytes", "file or error"))
        writer.writerows(rows)
