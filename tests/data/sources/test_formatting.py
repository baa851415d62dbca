"""Dumps and books to one document per line, with the installed wikiextractor; and whatever is no dump or book."""

import bz2
import json
import re
import subprocess
import sys
from html import escape

import pytest
from corpora import SAMPLE, tree

from common.errors import UserError
from common.workers import workers
from data.artifacts.layout import Layout
from data.artifacts.manifest import FileRecord
from data.corpus import extraction, formatting
from data.sources import books, wikipedia
from file_utils import atomic_path


def extract_wikipedia(dump, extracted, n_processes):
    extracted.mkdir(parents=True)
    with workers(n_processes) as pool:
        return sum(extraction.extract_wikipedia(dump, extracted, pool)[0].values())


def write_documents(source, files, formatted, n_processes=1):
    formatted.parent.mkdir(parents=True, exist_ok=True)
    with workers(n_processes) as pool, atomic_path(formatted) as new:
        record = formatting.write_documents(source, (files[0].parent, files), new, pool).record
    assert record == FileRecord.of(formatted, **record.counts)
    return record.counts["documents"]


def format_wikipedia(extracted, formatted):
    return write_documents(wikipedia.Source(), extraction.extracted_files(extracted), formatted)


def format_books(working_dir, formatted):
    source = books.Source()
    return write_documents(source, source.texts(Layout(working_dir, source.name))[1], formatted)


ARTICLES = {
    "Alder": """{{Infobox tree|name=Alder}}
'''Alder''' is a [[tree]] of the [[birch family|birches]] that likes wet ground near rivers.<ref>A book, p. 3.</ref>

== Wood and its uses ==
Its wood lasts under water &amp; carries a large part of the houses of Venice.
Under 8 words here is a crumb.

* [[Ash]], a tree of another family that often stands near the alder
{| class="wikitable"
| cell one || cell two
|}
== See also ==
* [[Birch]]
[[Category:Trees]]""",
    "Birch": "The '''birch''' has white bark, <i>light</i> leaves and a very short life for a tree.\n\n"
    "It was the first to return when the ice had gone from the north.",
    "Only a list": "* one\n* two\n",
}


def write_dump(path, articles):
    pages = "".join(
        f"  <page>\n    <title>{escape(title)}</title>\n    <ns>0</ns>\n    <id>{number}</id>\n    <revision>\n"
        f"      <id>{number + 100}</id>\n"
        f'      <text bytes="9" xml:space="preserve">{escape(text, quote=False)}</text>\n'
        "    </revision>\n  </page>\n"
        for number, (title, text) in enumerate(articles.items(), 1)
    )
    # Without a namespace of templates, which every real dump has, wikiextractor takes all pages for templates.
    names = '      <namespace key="0" />\n      <namespace key="10" case="first-letter">Template</namespace>\n'
    site = f"  <siteinfo>\n    <namespaces>\n{names}    </namespaces>\n  </siteinfo>\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bz2.compress(f"<mediawiki>\n{site}{pages}</mediawiki>\n".encode()))
    return path


def test_hand_written_dump(tmp_path):
    dump = write_dump(tmp_path / "dump.xml.bz2", ARTICLES)
    assert extract_wikipedia(dump, tmp_path / "out" / "extracted", 1) == 3
    formatted = tmp_path / "out" / "formatted" / "articles.txt"
    assert format_wikipedia(tmp_path / "out" / "extracted", formatted) == 2  # the list has no prose
    assert formatted.read_text(encoding="utf-8").split("\n") == [
        "Alder is a tree of the birches that likes wet ground near rivers. "
        "Its wood lasts under water & carries a large part of the houses of Venice.",
        "The birch has white bark, light leaves and a very short life for a tree. "
        "It was the first to return when the ice had gone from the north.",
        "",
    ]


@pytest.mark.parametrize("n_processes", [1, 2])
def test_sample_dump(tmp_path, n_processes):
    extracted, formatted = tmp_path / "extracted", tmp_path / "formatted.txt"
    assert extract_wikipedia(SAMPLE / "wikicorpus_sample.xml.bz2", extracted, n_processes) == 60
    assert format_wikipedia(extracted, formatted) == 60
    text = formatted.read_text(encoding="utf-8")
    assert 90_000 < len(text) < 130_000
    source = bz2.decompress((SAMPLE / "wikicorpus_sample.xml.bz2").read_bytes()).decode()
    headings = {h.strip() for h in re.findall(r"^==+(.*?)==+$", source, flags=re.MULTILINE)}
    assert len(headings) > 50
    for line in text.splitlines():
        assert not re.search(r"\{\{|\}\}|\[\[|\]\]|&amp;|&lt;|<ref|''|^\W*$", line)
        assert not headings & set(re.split(r"(?<=[.!?]) ", line))


def article_file(folder, *texts):
    folder.mkdir(parents=True)
    lines = [json.dumps({"id": "1", "title": "t", "text": text}) for text in texts]
    (folder / "wiki_00").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


PROSE = "one two three four five six seven eight"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{PROSE}\n{PROSE} nine", f"{PROSE} {PROSE} nine"),
        ("History.\none two three four five six seven\n" + PROSE, PROSE),  # seven words are no paragraph
        (f"A\u00a0&amp;amp; B\t {PROSE} &quot;x&quot;", f'A &amp; B {PROSE} "x"'),  # one layer of entities, one space
        (f"* {PROSE}\n| {PROSE}\n! {PROSE}\n{PROSE} {{{{x\n{PROSE} x]]\n  {PROSE}", PROSE),
        (f"{PROSE} | 3 * 4 # 5", f"{PROSE} | 3 * 4 # 5"),  # only at the start of a line are these markup
    ],
)
def test_lines_of_an_article(tmp_path, text, line):
    formatted = tmp_path / "formatted.txt"
    format_wikipedia(article_file(tmp_path / "AA", text), formatted)
    assert formatted.read_text(encoding="utf-8") == line + "\n"


def test_all_that_cannot_be_formatted_is_told_at_once(tmp_path):
    files = {f"{i}.txt": b"caf\xe9" if i % 2 else b"A book." for i in range(6)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as raised:
        write_documents(books.Source(), sorted(tmp_path.glob("*.txt")), tmp_path / "out" / "formatted.txt")
    found = zip((1, 3, 5), raised.value.sentences, strict=True)
    assert all(f"{i}.txt is not UTF-8 text" in sentence for i, sentence in found)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("n_bytes", [1, 7, 60, 61, 1000])
def test_parts_of_a_file_make_the_whole(tmp_path, monkeypatch, n_bytes):
    texts = [f"{PROSE} {'x' * (number % 13)}" for number in range(30)]
    folder = article_file(tmp_path / "AA", *texts)
    monkeypatch.setattr(wikipedia, "BYTES_PER_TASK", n_bytes)
    assert format_wikipedia(folder, tmp_path / "formatted.txt") == 30
    assert (tmp_path / "formatted.txt").read_text(encoding="utf-8").split("\n") == [*map(str.strip, texts), ""]


def bad_dumps(folder):
    whole = (SAMPLE / "wikicorpus_sample.xml.bz2").read_bytes()
    text = bz2.decompress(whole)
    return {
        "truncated": (whole[: len(whole) // 2], "damaged or cut short.*fetch it again"),
        "cut between streams": (bz2.compress(text[: len(text) // 2]), "ends without </mediawiki>"),
        "damaged": (whole[:9000] + bytes(99) + whole[9099:], "damaged or cut short"),
        "a page of HTML": (bz2.compress(b"<html>\n<body>403 Forbidden</body>\n</html>\n"), "ends without </mediawiki>"),
        "no pages": (write_dump(folder / "x.bz2", {}).read_bytes(), "found no article"),
        "empty": (bz2.compress(b""), "ends without </mediawiki>"),
    }


@pytest.mark.parametrize("case", ["truncated", "cut between streams", "damaged", "a page of HTML", "no pages", "empty"])
def test_bad_dump(tmp_path, case):
    content, message = bad_dumps(tmp_path / "source")[case]
    dump = tmp_path / "dump.xml.bz2"
    dump.write_bytes(content)
    with pytest.raises(UserError, match=message):
        extract_wikipedia(dump, tmp_path / "extracted", 2)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("n_processes", [1, 2])
def test_same_bytes_as_the_tool(tmp_path, n_processes):
    compare_with_the_tool(SAMPLE / "wikicorpus_sample.xml.bz2", tmp_path, n_processes)


@pytest.mark.parametrize("n_processes", [1, 2])
def test_same_bytes_as_the_tool_of_a_real_dump(tmp_path, reference_data, n_processes):
    compare_with_the_tool(reference_data / "enwiki-sample-pages-articles.xml.bz2", tmp_path, n_processes)


def compare_with_the_tool(dump, tmp_path, n_processes):
    extract_wikipedia(dump, tmp_path / "ours", n_processes)
    command = [sys.executable, "-m", "wikiextractor.WikiExtractor", str(dump), "--json", "--bytes", "100M", "--quiet"]
    subprocess.run([*command, "--processes", "1", "--output", str(tmp_path / "tool")], check=True)
    assert tree(tmp_path / "ours") == tree(tmp_path / "tool")


def test_bad_extraction_leaves_the_earlier_text(tmp_path):
    formatted = tmp_path / "formatted.txt"
    formatted.write_text("before\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"no prose in any document of .*few"):
        format_wikipedia(article_file(tmp_path / "few", "Too few words.", "History."), formatted)
    for index, damage in enumerate(
        [b'{"text": "half', b'{"title": "no text"}', b"[1]", b'{"text": 1}', b'{"text": "\xff"}']
    ):
        folder = article_file(tmp_path / f"broken{index}", PROSE)
        with open(folder / "wiki_00", "ab") as file:
            file.write(damage)
        with pytest.raises(UserError, match=r"What begins at byte \d+ of .*wiki_00 is no article"):
            format_wikipedia(folder, formatted)
    assert formatted.read_text(encoding="utf-8") == "before\n"


def test_books(tmp_path):
    books = tmp_path / "download" / "bookscorpus"
    (books / "deep" / "er").mkdir(parents=True)
    (books / "b.txt").write_text("Second  book.\r\n\r\n\u00a0It has\ttwo lines.\n", encoding="utf-8", newline="")
    (books / "a.txt").write_bytes(b"\xef\xbb\xbfFirst book.")  # with the mark that some editors put first
    (books / "deep" / "er" / "c.txt").write_text("Third, not in the folder itself.", encoding="utf-8")
    (books / "empty.txt").write_text(" \n", encoding="utf-8")
    (books / "notes.md").write_text("No book.", encoding="utf-8")
    (books / "folder.txt").mkdir()
    assert format_books(tmp_path, tmp_path / "formatted.txt") == 3
    assert (tmp_path / "formatted.txt").read_text(encoding="utf-8").split("\n") == [
        "First book.",
        "Second book. It has two lines.",
        "Third, not in the folder itself.",
        "",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9", "book .*book.txt is not UTF-8 text"),
        ("Text in UTF-16".encode("utf-16"), "book .*book.txt is not UTF-8 text"),
        (b"\x00\x01\x02binary", "book .*book.txt holds zero bytes"),
        (b"  \n", "no prose in any document"),
    ],
)
def test_bad_books_leave_the_earlier_text(tmp_path, content, message):
    books, formatted = tmp_path / "download" / "bookscorpus", tmp_path / "formatted.txt"
    books.mkdir(parents=True)
    formatted.write_text("before\n", encoding="utf-8")
    (books / "book.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        format_books(tmp_path, formatted)
    assert formatted.read_text(encoding="utf-8") == "before\n"


def test_articles_without_prose_are_counted(tmp_path):
    texts = [
        "one two three four five six seven eight",
        "A heading",
        "",
        "这座石桥在城市的北边，是很久以前建造的。",
        "桥",
    ]
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "wiki_00").write_text("".join(lines), encoding="utf-8")
    with workers(1) as pool:
        files = (tmp_path, [tmp_path / "wiki_00"])
        record = formatting.write_documents(wikipedia.Source(), files, tmp_path / "formatted.txt", pool).record
    kept, lost = len(texts[0]) + len(texts[3]), len("A heading") + len("桥")
    counts = {"documents": 2, "documents_without_prose": 3, "words": 8 + 9, "failed": 0}
    counts |= {"characters": kept, "characters_left_out": lost}
    assert record.counts == counts
    assert (tmp_path / "formatted.txt").read_text("utf-8") == f"{texts[0]}\n{texts[3]}\n"
