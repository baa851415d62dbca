"""Wikipedia's dump: the latest, one of a date, one at any address, or a file that is here already.

Dumps are published under their date, and disappear after some months. So the date, the size and the published sum are
recorded, and "latest" is resolved to its date once: a download that takes days, with a new dump appearing meanwhile,
must not end as half of each.

wikiextractor removes the markup. What it leaves that is no prose goes here: headings, which it turns into lines of
their own that end in a full stop like any other, captions and crumbs of lists and tables. All of them are short: on a
real dump 99 % of the headings have fewer than eight words, and hardly any paragraph has. So a line of fewer is dropped.
"""

import hashlib
import html
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common.errors import Problem, UserError
from common.remote_files import is_remote, shown
from data.artifacts.layout import Layout
from data.artifacts.manifest import FILE_NAME, FileRecord, Manifest
from data.artifacts.stage_output import Preparation, check_written_as
from data.corpus.extraction import extract_wikipedia, extracted_files
from data.downloaders.document_source import DocumentSource
from data.downloaders.folder import DownloadFolder, DownloadOptions, link_or_copy
from file_utils import cached_path

LATEST = "latest"
DUMP = "wikicorpus_en.xml.bz2"
DATE = re.compile(r"20\d{6}")
REMEDY = "Wikimedia keeps dumps for some months only; give --source latest, another date (YYYYMMDD), or a local dump."
MIN_WORDS = 8
CRUMBS = re.compile(r"^[*#:;|!{}]|\{\{|\}\}|\|\}|\[\[|\]\]")
BYTES_PER_TASK = 2**20


class Source(DocumentSource):
    """The articles of the English Wikipedia, by way of wikiextractor."""

    name = "wikicorpus_en"
    document = "article"
    counted_as = "articles with prose"
    parameters = MappingProxyType({"min_words": MIN_WORDS})

    def problem(self, source: str | None) -> Problem | None:
        if source is None or _is_published(source) or is_remote(source):
            return None
        path = Path(source).expanduser()
        if not path.is_file():
            sources = "latest, a date (YYYYMMDD), an address, or a dump (.xml.bz2)"
            return Problem(f"There is no file {source}", f"give --source {sources}")
        if not _is_bz2(path):
            return Problem(f"{source} is not a .bz2 file", "give --source a Wikipedia dump as it is downloaded")
        return None

    def download(self, preparation: Preparation, options: DownloadOptions) -> str:
        """Put the dump into its place.

        Raises:
            UserError: it cannot be had, is no dump, or is not what its publisher says.
        """
        source, folder = options.source or LATEST, preparation.layout.download
        local = None if _is_published(source) or is_remote(source) else Path(source).expanduser()
        if local:
            (record,) = preparation.records([local], "checking the dump").values()
            target = DownloadFolder(preparation, folder, "a local dump", {local.name: record})
        else:
            target = DownloadFolder(preparation, folder, shown(source) if is_remote(source) else source)
        if manifest := target.finished():
            return _kept(manifest, folder / DUMP)
        dump, facts = (local, {}) if local else _fetch(source, target.cache, options.wiki_mirror)

        def take_dump(new: Path) -> tuple[Mapping[str, FileRecord], Mapping[str, Any]]:
            # A link: should this be killed, the download is still in the cache.
            link_or_copy(dump, new / DUMP)
            return {DUMP: record if local else FileRecord.of(new / DUMP)}, facts

        manifest = target.fill(take_dump)
        if local:
            return f"{source} in {folder / DUMP}"
        date = f"of {facts['date']} " if "date" in facts else ""
        return f"the dump {date}({manifest.outputs[DUMP].bytes / 1e6:,.1f} MB) in {folder / DUMP}"

    def extract(self, preparation: Preparation) -> str:
        """The dump to the articles' text, without markup."""
        layout = preparation.layout
        dump, folder = layout.download / DUMP, layout.extracted
        if not dump.is_file():
            raise UserError(f"There is no Wikipedia dump at {dump}", "get one with --action download")
        inputs = preparation.records([dump])
        check_written_as(inputs, layout.download / FILE_NAME)
        output = preparation.output(folder / FILE_NAME, "extraction", {}, inputs, ["wikiextractor"])
        if finished := output.finished(extracted_files(folder)):
            return finished.skipped(folder)

        def extract_articles(new: Path) -> tuple[Mapping[str, FileRecord], Mapping[str, Any]]:
            n_articles = extract_wikipedia(dump, new, preparation.pool)
            records = preparation.records((new / name for name in n_articles), "hashing what was extracted")
            pairs = zip(n_articles.items(), records.values(), strict=True)
            return {name: FileRecord(r.bytes, r.sha256, {"articles": n}) for (name, n), r in pairs}, {}

        manifest = output.make_folder(extract_articles)
        return f"{manifest.total('articles'):,} articles extracted to {folder}"

    def texts(self, layout: Layout) -> tuple[Path, Sequence[Path]]:
        """What was extracted."""
        files = extracted_files(layout.extracted)
        if not files:
            raise UserError(f"There are no extracted articles in {layout.extracted}", "leave --skip_wikiextractor out")
        return layout.extracted, files

    def parts(self, files: Sequence[Path]) -> Iterator[tuple[Path, int]]:
        """Pieces of files, by their offsets, so that no more than these is in memory."""
        for file in files:
            for start in range(0, file.stat().st_size, BYTES_PER_TASK):
                yield file, start

    def part_name(self, part: tuple[Path, int]) -> str:
        return str(part[0])

    def documents(self, part: tuple[Path, int]) -> list[str]:
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


def _is_published(source: str) -> bool:
    return source == LATEST or DATE.fullmatch(source) is not None


def _kept(manifest: Manifest, dump: Path) -> str:
    newer = ""
    if manifest.parameters["source"] == LATEST:
        date = manifest.facts.get("date")
        newer = f", of {date}, the latest when it was downloaded; --overwrite gets a newer one"
    return f"the dump was downloaded before and is as it was{newer}: {dump}"


def _fetch(source: str, cache: Path, mirror: str) -> tuple[Path, dict[str, str]]:
    """The dump of a date, the latest or that of an address, in the cache; and what is known of it."""
    facts = {"address": shown(source)} if is_remote(source) else _published(cache, source, mirror)
    dump = cached_path(source if is_remote(source) else facts["address"], cache, name=DUMP)
    if not _is_bz2(dump):
        dump.unlink()
        raise UserError(f"{facts['address']} is not a .bz2 file", "give --source the address of a Wikipedia dump")
    if "sha1" in facts and (found := _sha1_of(dump)) != facts["sha1"]:
        dump.unlink()
        raise UserError(
            f"{facts['address']} came with the SHA-1 {found}, and {facts['sha1']} was published",
            "it was removed, start again",
        )
    return dump, facts


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
    print("comparing the download with its published SHA-1", flush=True)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()
