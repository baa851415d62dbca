"""Wikipedia's dump: the latest, one of a date, one at any address, or a file that is here already.

Dumps are published under their date, and disappear after some months. So the date, the size and the published sum are
recorded, and "latest" is resolved to its date once: a download that takes days, with a new dump appearing meanwhile,
must not end as half of each.
"""

import hashlib
import re
from pathlib import Path

from common.errors import UserError
from common.remote_files import is_remote, shown
from common.workers import Workers
from data.artifacts.layout import WIKIPEDIA, Layout
from data.artifacts.manifest import FileRecord, Manifest
from data.artifacts.stage_output import file_records
from data.downloaders.folder import DownloadFolder, DownloadOptions, link_or_copy
from file_utils import cached_path

LATEST = "latest"
DATE = re.compile(r"20\d{6}")
REMEDY = "Wikimedia keeps dumps for some months only; give --source latest, another date (YYYYMMDD), or a local dump."


def wikipedia_problem(source: str) -> str | None:
    """What is wrong with a source, as far as can be told without the network; None if nothing is."""
    if source == LATEST or DATE.fullmatch(source) or is_remote(source):
        return None
    path = Path(source).expanduser()
    if not path.is_file():
        return f"There is no file {source}; give --source latest, a date (YYYYMMDD), an address, or a dump (.xml.bz2)."
    return (
        None if _is_bz2(path) else f"{source} is not a .bz2 file; give --source a Wikipedia dump as it is downloaded."
    )


def download_wikipedia(layout: Layout, options: DownloadOptions, pool: Workers) -> str:
    """Put the dump into its place; returns what was done. See `wikipedia_problem` for the sources.

    Raises:
        UserError: it cannot be had, is no dump, or is not what its publisher says.
    """
    source = options.source or LATEST
    if not (source == LATEST or DATE.fullmatch(source) or is_remote(source)):
        return _take_local(layout, Path(source).expanduser(), options.overwrite, pool)
    named = shown(source) if is_remote(source) else source
    target = DownloadFolder(layout.download, WIKIPEDIA, named, pool, options.overwrite)
    if manifest := target.finished():
        return _kept(manifest, layout)
    facts = {"address": named} if is_remote(source) else _published(target.cache, source, options.wiki_mirror)
    address = source if is_remote(source) else facts["address"]
    dump = cached_path(address, target.cache, name=layout.dump.name)
    if not _is_bz2(dump):
        dump.unlink()
        raise UserError(f"{facts['address']} is not a .bz2 file", "give --source the address of a Wikipedia dump")
    if "sha1" in facts and (found := _sha1_of(dump)) != facts["sha1"]:
        dump.unlink()
        raise UserError(
            f"{facts['address']} came with the SHA-1 {found}, and {facts['sha1']} was published",
            "it was removed, start again",
        )
    with target.new() as new:
        # A link: should this be killed, the download is still in the cache.
        link_or_copy(dump, new / dump.name)
        record = FileRecord.of(new / dump.name)
        target.publish(new, {dump.name: record}, **facts)
    date = f"of {facts['date']} " if "date" in facts else ""
    return f"the dump {date}({record.bytes / 1e6:,.1f} MB) in {layout.dump}"


def _take_local(layout: Layout, source: Path, overwrite: bool, pool: Workers) -> str:
    (record,) = file_records([source], pool, "checking the dump")
    target = DownloadFolder(layout.download, WIKIPEDIA, "a local dump", pool, overwrite, {source.name: record})
    if manifest := target.finished():
        return _kept(manifest, layout)
    with target.new() as new:
        link_or_copy(source, new / layout.dump.name)
        target.publish(new, {layout.dump.name: record})
    return f"{source} in {layout.dump}"


def _kept(manifest: Manifest, layout: Layout) -> str:
    date = manifest.facts.get("date")
    newer = ""
    if manifest.parameters["source"] == LATEST:
        newer = f", of {date}, the latest when it was downloaded; --overwrite gets a newer one"
    return f"the dump was downloaded before and is as it was{newer}: {layout.dump}"


def _published(cache: Path, source: str, mirror: str) -> dict[str, str]:
    """The date, address and SHA-1 of a dump, from the list of sums that is published beside it."""
    # Kept with the pieces of the download, so that it goes on with the dump that it began with.
    address = f"{mirror.rstrip('/')}/enwiki/{source}/enwiki-{source}-sha1sums.txt"
    try:
        sums = cached_path(address, cache, name=f"sha1sums-{source}.txt", progress=False)
    except UserError as error:
        raise UserError([*error.problems, REMEDY]) from error
    text = sums.read_text(encoding="utf-8", errors="replace")
    match = re.search(r"^([0-9a-f]{40})\s+(enwiki-(20\d{6})-pages-articles\.xml\.bz2)$", text, re.MULTILINE)
    if match is None:
        sums.unlink()
        raise UserError(f"{address} lists no pages-articles dump, so it may not be finished yet. {REMEDY}")
    sha1, name, date = match.groups()
    return {"address": f"{mirror.rstrip('/')}/enwiki/{date}/{name}", "date": date, "sha1": sha1}


def _is_bz2(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(3) == b"BZh"


def _sha1_of(path: Path) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    print("comparing the download with its published SHA-1", flush=True)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
