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
from urllib.parse import urlsplit

from tqdm import tqdm

from common.errors import UserError
from common.remote_files import is_remote, last_part, shown
from common.workers import Workers
from data.artifacts.layout import BOOKS, Layout
from data.artifacts.manifest import FileRecord
from data.artifacts.stage_output import file_records
from data.downloaders.folder import DownloadFolder, DownloadOptions, link_or_copy
from file_utils import cached_path, unpack

AT_ONCE, AT_ONCE_PER_HOST = 4, 2
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
RESULTS = "results.tsv"
WANTED = "a folder of .txt files, such a file, an archive of them, the address of either, or a file of addresses"


def books_problem(source: str | None) -> str | None:
    """What is wrong with a source, as far as can be told without the network; None if nothing is."""
    if not source:
        return f"The books need --source, {WANTED}; or prepare Wikipedia alone, --dataset wikicorpus_en."
    if is_remote(source):
        known = _is_archive(source) or urlsplit(source).path.endswith(".txt")
        return None if known else f"--source {shown(source)} is not {WANTED}."
    path = Path(source).expanduser()
    if not path.exists():
        return f"There is no {source}; give --source {WANTED}."
    if path.is_dir():
        return None if _texts(path) else f"There is no .txt file under {source}; give --source {WANTED}."
    return None if _is_archive(source) or path.suffix == ".txt" or _addresses(path) else f"{source} is not {WANTED}."


def download_books(layout: Layout, options: DownloadOptions, pool: Workers) -> str:
    """Put the books, .txt files, into their folder, which then holds these alone; returns what was done.

    Raises:
        UserError: they cannot be had, one is no text, or too many of a list failed.
    """
    source = options.source
    path = Path(source).expanduser()
    local = [] if is_remote(source) else _texts(path) if path.is_dir() else [path]
    names = {_relative(file, path): file for file in local}
    inputs = dict(zip(names, file_records(local, pool, "checking the books"), strict=True))
    kind = shown(source) if is_remote(source) else "local books"
    target = DownloadFolder(layout.download, BOOKS, kind, pool, options.overwrite, inputs)
    if manifest := target.finished():
        return f"{len(manifest.outputs)} files of books were downloaded before and are as they were: {layout.download}"
    facts = {}
    with target.new() as new:
        if local and (addresses := _addresses(path)):
            facts = _download_list(addresses, target.cache, new, options.max_failed_share)
        elif _is_archive(source):
            unpack(cached_path(source, target.cache), new, overwrite=True)
        elif is_remote(source):
            link_or_copy(cached_path(source, target.cache), new / last_part(source))
        else:
            for name, file in names.items():
                link_or_copy(file, new / name)
        outputs = _records(new, source, pool)
        target.publish(new, outputs, **facts)
    failed = f"; {facts['failed']} failed, see {layout.download / RESULTS}" if facts.get("failed") else ""
    return f"{sum(name.endswith('.txt') for name in outputs):,} books in {layout.download}{failed}"


def _relative(file: Path, source: Path) -> str:
    return (file.relative_to(source) if source.is_dir() else Path(file.name)).as_posix()


def _texts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.txt") if path.is_file())


def _is_archive(source: str) -> bool:
    return (urlsplit(source).path if is_remote(source) else source).lower().endswith(ARCHIVES)


def _records(folder: Path, source: str, pool: Workers) -> dict[str, FileRecord]:
    """What lies in the folder, after removing what is no book."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".txt" and path.name != RESULTS:
            path.unlink()
    texts = _texts(folder)
    if not texts:
        where = shown(source) if is_remote(source) else source
        raise UserError(f"There is no .txt file in {where}", f"give --source {WANTED}")
    for text, bad in zip(texts, pool.map(_text_problem, texts, "reading the books", str), strict=True):
        if bad:
            raise UserError(f"The book {_relative(text, folder)} {bad}", "convert it, or take it away")
    files = [*texts, *folder.glob(RESULTS)]
    return dict(zip((_relative(f, folder) for f in files), file_records(files, pool, "hashing the books"), strict=True))


def _text_problem(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return f"is not UTF-8 text ({error})"
    return "holds zero bytes and is no text" if "\0" in text else None


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
