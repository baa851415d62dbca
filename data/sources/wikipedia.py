"""Wikipedia's dump: the latest, one of a date, one at any address, or a file that is here already.

Dumps disappear after some months, so "latest" is resolved to its date once: a download that takes days, with a new dump
appearing meanwhile, must not end as half of each.
"""

import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.addresses import below, is_remote, shown
from common.errors import Problem, UserError
from common.json_files import parse_json
from common.words import counted
from common.workers import Workers
from data.artifacts.layout import Layout
from data.artifacts.manifest import FILE_NAME
from data.artifacts.stage_output import Preparation, check_written_as
from data.corpus.documents import Document, FormatOptions, Part, prose
from data.corpus.extraction import extract_wikipedia, extracted_files
from data.corpus.lines import lines_from, starts
from data.document_sources import DocumentSource
from data.downloaders.folder import DownloadOptions, checked_file, download_folder, link_or_copy
from file_utils import cached_path

LATEST = "latest"
DUMP = "wikicorpus_en.xml.bz2"
DATE = re.compile(r"20\d{6}")
REMEDY = "Wikimedia keeps dumps for some months only; give --source latest, another date (YYYYMMDD), or a local dump."
BYTES_PER_TASK = 2**20


class Source(DocumentSource):
    """The articles of the English Wikipedia, by way of wikiextractor."""

    name = "wikicorpus_en"
    document = "article"

    def problems(self, options: DownloadOptions) -> Iterator[Problem]:
        source = options.source or LATEST
        path = Path(source).expanduser()
        if _is_local(source) and not (path.is_file() and path.suffix.lower() == ".bz2"):
            wanted = "latest, a date (YYYYMMDD), an address, or a dump as it is downloaded (.xml.bz2)"
            yield Problem(f"--source {source} is no .bz2 file", f"give {wanted}")

    def download(self, preparation: Preparation, options: DownloadOptions) -> str:
        """The dump. Raises UserError where it cannot be had, or is not what its publisher says."""
        source = options.source or LATEST
        path = Path(source).expanduser()
        local = {path.name: path} if _is_local(source) else {}

        def take_dump(new: Path, pieces: Path) -> Mapping[str, Any]:
            dump, facts = (path, {}) if local else _fetch(source, pieces, options.wiki_mirror)
            link_or_copy(dump, new / DUMP)  # a link: should this be killed, the download is still among the pieces
            return facts

        asked = "a local dump" if local else shown(source)
        return download_folder(preparation, preparation.layout.download, "the dump", asked, take_dump, local)

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

        def extract_articles(new: Path) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
            articles, left_out = extract_wikipedia(dump, new, preparation.pool)
            return {name: {"articles": n} for name, n in articles.items()}, {"left_out": left_out}

        manifest = output.make_folder(extract_articles)
        return f"{counted(manifest.total('articles'), 'article')} extracted to {folder}{manifest.facts['left_out']}"

    def texts(self, layout: Layout) -> tuple[Path, Sequence[Path]]:
        """What was extracted."""
        return layout.extracted, extracted_files(layout.extracted)

    def parameters(self, options: FormatOptions) -> Mapping[str, Any]:
        return {"min_words": options.min_words}

    def parts(self, files: Sequence[Path], options: FormatOptions, pool: Workers) -> Iterable[Part]:
        """Pieces of files, by their offsets, so that no more than these is in memory."""
        return (Part(file, start) for file in files for start in starts(file, BYTES_PER_TASK))

    def documents(self, part: Part, options: FormatOptions) -> Iterator[Document]:
        """The articles whose lines start in this part of the file."""
        with open(part.file, "rb") as content:
            for at, line in lines_from(content, part.start, BYTES_PER_TASK):
                try:
                    lines = parse_json(line)["text"].split("\n")
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise UserError(
                        f"What begins at byte {at} of {part.file} is no article in wikiextractor's JSON ({error})",
                        "extract the dump again, without --skip_wikiextractor",
                    ) from error
                yield prose(map(html.unescape, lines), options.min_words)


def _is_local(source: str) -> bool:
    return not (source == LATEST or DATE.fullmatch(source) or is_remote(source))


def _fetch(source: str, pieces: Path, mirror: str) -> tuple[Path, Mapping[str, str]]:
    """The dump of a date, the latest or that of an address, among the pieces; and what is known of it."""
    if is_remote(source):
        return cached_path(source, pieces, name=DUMP), {"address": shown(source)}
    # The list of sums is kept with the pieces, so that a download goes on with the dump that it began with.
    address = below(mirror, f"enwiki/{source}/enwiki-{source}-sha1sums.txt")
    try:
        with checked_file(address, pieces, f"sha1sums-{source}.txt", progress=False) as sums:
            text = sums.read_text(encoding="utf-8", errors="replace")
            match = re.search(r"^([0-9a-f]{40})\s+(enwiki-(20\d{6})-pages-articles\.xml\.bz2)$", text, re.MULTILINE)
            if match is None:
                raise UserError(f"{shown(address)} lists no pages-articles dump, so it may not be finished yet")
    except UserError as error:
        raise UserError([*error.problems, REMEDY]) from error
    sha1, name, date = match.groups()
    address = below(mirror, f"enwiki/{date}/{name}")
    with checked_file(address, pieces, DUMP) as dump:
        print("comparing the dump with its published SHA-1", flush=True)
        with open(dump, "rb") as file:
            found = hashlib.file_digest(file, "sha1").hexdigest()
        if found != sha1:
            raise UserError(f"{shown(address)} has the SHA-1 {found}, and {sha1} was published")
    return dump, {"address": shown(address), "date": date, "sha1": sha1}
