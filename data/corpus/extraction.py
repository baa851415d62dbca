"""Wikipedia's dump to the articles' text, with the parts of wikiextractor.

Its own command line works on one machine, and does not notice when one of its processes is killed. So its parts run on
our workers and give the same bytes. Templates, a gigabyte of English Wikipedia, go to files as they are read, and all
workers map these into memory, so that there is one copy of them on each machine.
"""

import bz2
import contextlib
import functools
import html
import io
import itertools
import mmap
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tqdm import tqdm
from wikiextractor import WikiExtractor, template_blob
from wikiextractor.extract import _DEFAULT_IGNORED_TAG_PATTERNS, Extractor, ignoreTag

from common.errors import UserError
from common.limits import within_limits
from common.workers import Workers
from data.artifacts.manifest import LeftOut

BYTES_PER_FILE = 100 * 2**20
BYTES_PER_TASK = 2**20
MAX_PAGE_BYTES = 2**24  # of XML, and of what is made of it: MediaWiki takes 2 MiB of text
PAGE_SECONDS = 5  # of processor time
PAGE_MEMORY = 2**30
FETCH_AGAIN = "fetch it again with --action download --dataset wikicorpus_en --overwrite"
BEGIN, END = b"<page>", b"</page>"
TAIL = 64  # of what is passed over: </page> may be cut, or the dump end in </mediawiki>
TITLE, NAMESPACE = re.compile(rb"<title>([^<]*)"), re.compile(rb"<ns>([^<]*)")

ENDLESS = f"without an end within {MAX_PAGE_BYTES // 2**20} MiB"
FAILED = f"not read within {PAGE_SECONDS} s and {PAGE_MEMORY // 2**30} GiB, or not well formed"


class _Site(NamedTuple):
    """What a dump says of its wiki before the first page."""

    urlbase: str
    namespaces: set[str]
    template_prefix: str  # of the titles of templates


def extracted_files(extracted: Path) -> list[Path]:
    """The files that extraction wrote, in its order."""
    return sorted(path for path in extracted.rglob("wiki_*") if path.is_file())


def extract_wikipedia(dump: Path, extracted: Path, pool: Workers) -> tuple[dict[str, int], LeftOut]:
    """Write the articles of a dump (.xml or .xml.bz2) to AA/wiki_00 and so on in the folder `extracted`, which is new.

    The bytes are those of `python -m wikiextractor.WikiExtractor --json --bytes 100M`, but for articles whose titles
    begin with the name of the templates' namespace, which are kept, and for those that meet a limit, which are left
    out. Returns the number of articles of each file, by its path from `extracted`, and the pages that are none. Raises
    UserError if the dump is damaged, cut short or without articles.
    """
    left_out = LeftOut()
    # Beside the output, where workers of a cluster see it too.
    with tempfile.TemporaryDirectory(prefix=".templates.", dir=extracted.parent) as folder:
        site = _site(next(_pages(dump), (b"", True))[0])
        _save_templates(dump, Path(folder), site, pool, left_out)
        extract = functools.partial(_extract, site, Path(folder))
        articles = _results(extract, _articles(dump, left_out), pool, "articles", left_out)
        counts = _write(articles, extracted)
    if not counts:
        raise UserError(f"wikiextractor found no article in {dump}{left_out}", "check that it is a pages-articles dump")
    return counts, left_out


def _pages(dump: Path, what: str | None = None) -> Iterator[tuple[bytes, bool]]:
    """What comes up to each </page>, and whether that is all: of what is too long comes the beginning alone.

    Has a bar of the name `what`. Raises UserError if the dump is damaged, or ends before </mediawiki>.
    """
    begin, rest, size = b"", b"", dump.stat().st_size
    with open(dump, "rb") as raw, tqdm.wrapattr(raw, "read", size, desc=what, disable=what is None) as counted:
        content = bz2.BZ2File(counted) if dump.suffix == ".bz2" else counted
        try:
            while block := content.read(BYTES_PER_TASK):
                *pages, rest = (rest + block).split(END)
                for page in pages:
                    yield (begin or page), not begin
                    begin = b""
                if begin or len(rest) > MAX_PAGE_BYTES:
                    begin, rest = begin or rest[:BYTES_PER_TASK], rest[-TAIL:]
        except (EOFError, OSError) as error:
            raise UserError(f"The dump {dump} is damaged or cut short ({error})", FETCH_AGAIN) from error
    if not rest.rstrip().endswith(b"</mediawiki>"):
        raise UserError(f"The dump {dump} ends without </mediawiki>: it is cut short, or no dump", FETCH_AGAIN)
    if begin or BEGIN in rest:
        yield (begin or rest), False


def _lines(page: bytes) -> Iterable[str]:
    return io.TextIOWrapper(io.BytesIO(page + b"\n" + END), encoding="utf-8", errors="surrogatepass")


def _title(page: bytes) -> str:
    match = TITLE.search(page)
    return html.unescape(match[1].decode("utf-8", "replace")) if match else "a page without a title"


def _articles(dump: Path, left_out: LeftOut) -> Iterator[bytes]:
    """The pages that are articles. wikiextractor says nothing of the others, so they are counted here."""
    for piece, is_whole in _pages(dump, "extracting articles"):
        before, _, page = piece.rpartition(BEGIN)
        for unclosed in before.split(BEGIN)[1:] + ([] if is_whole else [page]):
            left_out.add(ENDLESS, _title(unclosed))
        namespace = NAMESPACE.search(page)
        if is_whole and namespace is None:
            left_out.add("without <ns>", _title(page))
        elif is_whole and namespace[1] != b"0":
            left_out.add("in other namespaces")
        elif is_whole and b"<redirect" in page.partition(b"<text")[0]:
            left_out.add("redirects")
        elif is_whole:
            yield page


def _results(
    function: Callable[[bytes], Any], pages: Iterable[bytes], pool: Workers, what: str, left_out: LeftOut
) -> Iterator[Any]:
    """`function` of each page, `what` it is of; those of which it makes nothing are counted."""
    limited = functools.partial(_within_limits, function)
    for results in pool.map(
        limited, _batches(pages), "extraction", lambda batch: f"{what} from {_title(batch[0])!r} on"
    ):
        for title, result in results:
            if result is None:
                left_out.add(f"{what} {FAILED}", title)
            else:
                yield result


def _batches(pages: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch, size = [], 0
    for page in pages:
        batch.append(page)
        size += len(page)
        if size >= BYTES_PER_TASK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _within_limits(function: Callable[[bytes], Any], batch: list[bytes]) -> list[tuple[str, Any]]:
    return list(zip(map(_title, batch), within_limits(function, batch, PAGE_SECONDS, PAGE_MEMORY), strict=True))


def _site(piece: bytes) -> _Site:
    """From the first piece of a dump."""
    urlbase, namespaces, template_namespace = "", {"Template"}, "Template"
    header = piece.partition(BEGIN)[0].decode("utf-8", "replace")
    for line in io.StringIO(header, newline=None):
        if not (match := WikiExtractor.tagRE.search(line)):
            continue
        tag, content = match[2], match[3]
        if tag == "base":
            urlbase = content[: content.rfind("/")]
        elif tag == "namespace":
            namespaces.add(content)
            if 'key="10"' in line:
                template_namespace = content
    return _Site(urlbase, namespaces, f"{template_namespace}:")


class _TemplateFiles(template_blob.StreamingTemplateBlobBuilder):
    """The library's builder, which writes the templates' texts to a file instead of gathering them."""

    def __init__(self, content: BinaryIO):
        super().__init__()
        self.content = content

    def add(self, title: str, text: str) -> None:
        encoded = text.encode("utf-8", "ignore")  # a reference may be to half a surrogate pair
        self._metadata.append((title, self._content_offset, len(encoded)))
        self._content_offset += len(encoded)
        self.content.write(encoded)


class _Pairs(list[tuple[str, str]]):
    """Stands for a builder of the library where its pieces are made."""

    def add(self, title: str, text: str) -> None:
        self.append((title, text))


def _save_templates(dump: Path, folder: Path, site: _Site, pool: Workers, left_out: LeftOut) -> None:
    prefix = site.template_prefix.encode()
    pieces = (page for page, is_whole in _pages(dump, "reading templates") if is_whole)
    pages = (page for page in pieces if (title := TITLE.search(page)) and title[1].startswith(prefix))
    found = _results(functools.partial(_templates, site), pages, pool, "templates", left_out)
    with open(folder / "templates2", "wb") as templates_file, open(folder / "redirects2", "wb") as redirects_file:
        builders = {"templates": _TemplateFiles(templates_file), "redirects": _TemplateFiles(redirects_file)}
        for kind, title, text in itertools.chain.from_iterable(found):
            builders[kind].add(title, text)
    for kind, builder in builders.items():
        records, titles, _ = builder.finish()
        (folder / f"{kind}0").write_bytes(records)
        (folder / f"{kind}1").write_bytes(titles)


def _templates(site: _Site, page: bytes) -> list[tuple[str, str, str]]:
    pairs = {"templates": _Pairs(), "redirects": _Pairs()}
    builders = dict(zip(("blob_builder", "redirects_blob_builder"), pairs.values(), strict=True))
    WikiExtractor.load_templates(_lines(page), **builders, template_prefix=site.template_prefix)
    return [(kind, *pair) for kind in pairs for pair in pairs[kind]]


@functools.lru_cache(maxsize=2)
def _mapped(folder: Path, kind: str) -> template_blob.CompactedTemplates:
    parts = []
    for path in (folder / f"{kind}{number}" for number in range(3)):
        with open(path, "rb") as file:  # mmap refuses an empty one
            parts.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b"")
    return template_blob.CompactedTemplates(*parts)


def _extract(site: _Site, templates: Path, page: bytes) -> str:
    """The article as a line of JSON."""
    # The library skips titles that begin with this; which pages are templates, their namespace says.
    WikiExtractor.templateNamespace = "\0"
    out = io.StringIO()
    for number, revision, title, lines in WikiExtractor.collect_pages(_lines(page)):
        Extractor(
            number,
            revision,
            site.urlbase,
            title,
            lines,
            templates=_mapped(templates, "templates"),
            redirects=_mapped(templates, "redirects"),
            templatePrefix=site.template_prefix,
            knownNamespaces=set(site.namespaces),
            ignored_tag_patterns=[*_DEFAULT_IGNORED_TAG_PATTERNS, ignoreTag("a")],
            to_json=True,
        ).extract(out)
    if not 0 < out.tell() <= MAX_PAGE_BYTES:
        raise ValueError("no article, or one that its templates made too long")
    return out.getvalue()


def _write(articles: Iterable[str], extracted: Path) -> dict[str, int]:
    counts = Counter()
    splitter = WikiExtractor.OutputSplitter(WikiExtractor.NextFile(extracted), BYTES_PER_FILE, False)
    with contextlib.closing(splitter) as output:
        for article in articles:
            output.write(article)
            counts[Path(output.file.name).relative_to(extracted).as_posix()] += 1
    return counts
