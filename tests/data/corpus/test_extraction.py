"""Pages of a dump that are no articles, or that take wikiextractor too long, are counted, and the others are kept."""

import bz2
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.workers import workers
from data.corpus import extraction
from data.corpus.extraction import ENDLESS, FAILED, extract_wikipedia, extracted_files
from data.corpus.formatting import write_documents
from data.sources.wikipedia import Source

HEADER = (
    "<mediawiki>\n<siteinfo>\n<namespaces>\n"
    '<namespace key="10" case="first-letter">Vorlage</namespace>\n</namespaces>\n</siteinfo>\n'
)
PROSE = "The old bridge in the north of the town was built of stone by a king."


def page(title, text=PROSE, ns="<ns>0</ns>", number=1, more="", end="</page>"):
    head = f"<page>\n<title>{title}</title>\n{ns}\n<id>{number}</id>\n{more}<revision>\n<id>7</id>\n"
    return f'{head}<text xml:space="preserve">{text}</text>\n</revision>\n{end}\n'


def write_dump(path, *pages):
    content = HEADER.encode() + b"".join(p if isinstance(p, bytes) else p.encode() for p in pages) + b"</mediawiki>\n"
    path.write_bytes(bz2.compress(content))
    return path


def extract(dump, folder, n_processes=1):
    (folder / "out").mkdir(parents=True)
    with workers(n_processes) as pool:
        _, left_out = extract_wikipedia(dump, folder / "out" / "extracted", pool)
    files = extracted_files(folder / "out" / "extracted")
    lines = [line for file in files for line in file.read_text("ascii").splitlines()]
    return {article["title"]: article["text"] for article in map(json.loads, lines)}, dict(left_out)


@pytest.mark.slow
def test_what_is_no_article_is_counted_and_the_others_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "PAGE_SECONDS", 0)  # of what is begun
    monkeypatch.setattr(extraction, "MAX_PAGE_BYTES", 300_000)
    monkeypatch.setattr(extraction, "BYTES_PER_TASK", 1000)
    bomb = [page(f"Vorlage:L{i}", f"{{{{L{i + 1}}}}}" * 10, "<ns>10</ns>") for i in range(25)]
    dump = write_dump(
        tmp_path / "dump.xml.bz2",
        page("Vorlage", PROSE, number=1),
        page("Vorlagen und Muster", PROSE, number=2),
        page("Template metaprogramming", PROSE, number=3),
        page("Old name", "#REDIRECT [[Bridge]]", more='<redirect title="Bridge" />\n'),
        page("Talk:Bridge", ns="<ns>1</ns>"),
        page("Kategorie:Bridge", ns="<ns>14</ns>"),
        *bomb,
        page("Unclosed", end=""),
        page("Bridge", PROSE + " {{Q}}", number=4),
        page("Vorlage:Q", "A quotation.", "<ns>10</ns>"),
        page("Bomb", f"{PROSE} {{{{L0}}}}"),
        page("Long &amp; wide", "x" * 400_000),
        page("Of an old dump", ns=""),
        page("Latin").encode().replace(b"stone", b"st\xf6ne"),
        page("The last", PROSE, number=5),
        page("Never closed", end=""),
    )
    articles, left_out = extract(dump, tmp_path, 2)
    kept = ["Vorlage", "Vorlagen und Muster", "Template metaprogramming", "Bridge", "The last"]
    assert articles == {title: PROSE + (" A quotation." if title == "Bridge" else "") for title in kept}
    assert left_out == {
        "redirects": 1,
        "in other namespaces": 28,
        ENDLESS: ["Unclosed", "Long & wide", "Never closed"],
        "without <ns>": ["Of an old dump"],
        f"articles {FAILED}": ["Bomb", "Latin"],
    }


@pytest.mark.parametrize("reference", ["&amp;#xD800;", "&amp;#56320;", "&#xdfff;", "{{half}}", "{{half|&amp;#xD800;}}"])
def test_half_of_a_surrogate_pair_is_dropped(tmp_path, reference):
    half = page("Vorlage:Half", "&#xD800;&amp;#xD800;{{{1|}}}", "<ns>10</ns>")
    dump = write_dump(tmp_path / "dump.xml.bz2", half, page("Bridge &#xD800;", f"{PROSE[:-1]}{reference}."))
    articles, left_out = extract(dump, tmp_path)
    assert len(articles) == 1
    assert left_out == {"in other namespaces": 1}
    with workers(1) as pool:
        files = extracted_files(tmp_path / "out" / "extracted")
        write_documents(Source(), (tmp_path, files), tmp_path / "formatted", pool)
    assert (tmp_path / "formatted").read_text(encoding="utf-8") == PROSE + "\n"


@settings(max_examples=40)
@given(
    st.lists(st.text("<>/pagex \n", max_size=30).map(str.encode), max_size=6), st.integers(1, 40), st.integers(20, 99)
)
def test_pages_are_the_pieces_whatever_the_blocks(tmp_path_factory, pieces, block, limit):
    dump = tmp_path_factory.mktemp("dump") / "dump.xml"
    dump.write_bytes(b"</page>".join([*pieces, b"</mediawiki>"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "BYTES_PER_TASK", block)
        patch.setattr(extraction, "MAX_PAGE_BYTES", limit)
        found = list(extraction._pages(dump))
    expected = b"</page>".join([*pieces, b""]).split(b"</page>")[:-1]
    assert len(found) == len(expected)
    for (piece, is_whole), whole in zip(found, expected, strict=True):
        assert piece == whole if is_whole else (whole + b"</page>").startswith(piece)
        assert is_whole or len(whole) >= limit - len(b"</page>")
        assert not is_whole or len(whole) <= limit + block


def test_a_dump_whose_pages_are_all_left_out_says_what_they_were(tmp_path):
    dump = write_dump(tmp_path / "dump.xml.bz2", page("Talk:Bridge", ns="<ns>1</ns>"), page("Old", ns=""))
    with pytest.raises(UserError, match=r"no article in .*left out: 1 in other namespaces, 1 without <ns> \(Old\);"):
        extract(dump, tmp_path)
