"""Wikipedia's dump to the articles' text, with the parts of wikiextractor.

Its own command line works on one machine, and does not notice when one of its processes is killed. So its parts run on
our workers and give the same bytes. Templates, a gigabyte of English Wikipedia, go to files as they are read, and all
workers map these into memory, so that there is one copy of them on each machine.
"""

import bz2
import contextlib
import functools
import io
import itertools
import mmap
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm
from wikiextractor import WikiExtractor, template_blob
from wikiextractor.extract import _DEFAULT_IGNORED_TAG_PATTERNS, Extractor, ignoreTag

from common.errors import UserError
from common.workers import Workers

BYTES_PER_FILE = 100 * 2**20
PAGES_PER_TASK = 32
FETCH_AGAIN = "fetch it again with --action download --dataset wikicorpus_en --overwrite"


def extracted_files(extracted: Path) -> list[Path]:
    """The files that extraction wrote, in its order."""
    return sorted(path for path in extracted.rglob("wiki_*") if path.is_file())


def extract_wikipedia(dump: Path, extracted: Path, pool: Workers) -> dict[str, int]:
    """Write the articles of a dump (.xml or .xml.bz2) to AA/wiki_00 and so on in the folder `extracted`, which is new.

    The bytes are those of `python -m wikiextractor.WikiExtractor --json --bytes 100M`. Returns the number of articles
    of each file, by its path from `extracted`. Raises UserError if the dump is damaged, cut short or without articles.
    """
    # Beside the output, where workers of a cluster see it too.
    with tempfile.TemporaryDirectory(prefix=".templates.", dir=extracted.parent) as folder:
        urlbase, namespaces, template_namespace = _site(dump)
        # The library skips pages of this name by a variable of its module.
        WikiExtractor.templateNamespace = template_namespace
        prefix = f"{template_namespace}:" if template_namespace else ""
        prefix = _save_templates(_lines(dump, "reading templates"), Path(folder), prefix)
        extract = functools.partial(_extract, Path(folder), urlbase, namespaces, prefix)
        pages = WikiExtractor.collect_pages(_lines(dump, "extracting articles"))
        batches = iter(lambda: list(itertools.islice(pages, PAGES_PER_TASK)), [])
        articles = pool.map(extract, batches, "extraction", lambda batch: f"articles from {batch[0][2]!r} on")
        counts = _write(itertools.chain.from_iterable(articles), extracted)
    if not counts:
        raise UserError(f"wikiextractor found no article in {dump}", "check that it is a pages-articles dump")
    return counts


def _lines(dump: Path, what: str | None = None) -> Iterator[str]:
    """The dump's lines, with a bar of this name; raises UserError when it is damaged or ends before </mediawiki>."""
    last, size = "", dump.stat().st_size
    with open(dump, "rb") as raw, tqdm.wrapattr(raw, "read", size, desc=what, disable=what is None) as counted:
        content = bz2.BZ2File(counted) if dump.suffix == ".bz2" else raw
        try:
            for line in io.TextIOWrapper(content, encoding="utf-8"):
                last = line if line.strip() else last
                yield line
        except (EOFError, OSError, UnicodeDecodeError) as error:
            raise UserError(f"The dump {dump} is damaged or cut short ({error})", FETCH_AGAIN) from error
    if not last.rstrip().endswith("</mediawiki>"):
        raise UserError(f"The dump {dump} ends without </mediawiki>: it is cut short, or no dump", FETCH_AGAIN)


def _site(dump: Path) -> tuple[str, set[str], str]:
    """What a dump says of its wiki before the first page: address, namespaces, and which of them is the templates'."""
    urlbase, namespaces, template_namespace = "", {"Template"}, ""
    for line in _lines(dump):
        if not (match := WikiExtractor.tagRE.search(line)):
            continue
        tag, content = match[2], match[3]
        if tag == "base":
            urlbase = content[: content.rfind("/")]
        elif tag == "namespace":
            namespaces.add(content)
            if 'key="10"' in line:
                template_namespace = content
        elif tag in ("/siteinfo", "page"):
            break
    return urlbase, namespaces, template_namespace


class _TemplateFiles(template_blob.StreamingTemplateBlobBuilder):
    """The library's builder, which writes the templates' texts to a file instead of gathering them."""

    def __init__(self, content: BinaryIO):
        super().__init__()
        self.content = content

    def add(self, title: str, text: str) -> None:
        encoded = text.encode("utf-8")
        self._metadata.append((title, self._content_offset, len(encoded)))
        self._content_offset += len(encoded)
        self.content.write(encoded)


def _save_templates(lines: Iterable[str], folder: Path, prefix: str) -> str:
    with open(folder / "templates2", "wb") as templates_file, open(folder / "redirects2", "wb") as redirects_file:
        templates, redirects = _TemplateFiles(templates_file), _TemplateFiles(redirects_file)
        _, prefix = WikiExtractor.load_templates(
            lines, blob_builder=templates, redirects_blob_builder=redirects, template_prefix=prefix
        )
    for kind, builder in (("templates", templates), ("redirects", redirects)):
        records, titles, _ = builder.finish()
        (folder / f"{kind}0").write_bytes(records)
        (folder / f"{kind}1").write_bytes(titles)
    return prefix


@functools.lru_cache(maxsize=2)
def _mapped(folder: Path, kind: str) -> template_blob.CompactedTemplates:
    parts = []
    for path in (folder / f"{kind}{number}" for number in range(3)):
        with open(path, "rb") as file:  # mmap refuses an empty one
            parts.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b"")
    return template_blob.CompactedTemplates(*parts)


def _extract(templates: Path, urlbase: str, namespaces: set[str], prefix: str, batch: list[tuple]) -> list[str]:
    articles = []
    for number, revision, title, lines in batch:
        out = io.StringIO()
        Extractor(
            number,
            revision,
            urlbase,
            title,
            lines,
            templates=_mapped(templates, "templates"),
            redirects=_mapped(templates, "redirects"),
            templatePrefix=prefix,
            knownNamespaces=set(namespaces),
            ignored_tag_patterns=[*_DEFAULT_IGNORED_TAG_PATTERNS, ignoreTag("a")],
            to_json=True,
        ).extract(out)
        articles.append(out.getvalue())
    return articles


def _write(articles: Iterable[str], extracted: Path) -> dict[str, int]:
    counts = Counter()
    splitter = WikiExtractor.OutputSplitter(WikiExtractor.NextFile(extracted), BYTES_PER_FILE, False)
    with contextlib.closing(splitter) as output:
        for article in articles:
            output.write(article)
            counts[Path(output.file.name).relative_to(extracted).as_posix()] += 1
    return counts
