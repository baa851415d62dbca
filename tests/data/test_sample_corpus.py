"""The sample corpus: its dump is a well-formed MediaWiki export, and its prose is as much and as varied as promised."""

import bz2
import re
from collections import Counter
from xml.etree import ElementTree

import pytest
from paths import ROOT

SAMPLE = ROOT / "data" / "sample"
NAMESPACE = "{http://www.mediawiki.org/xml/export-0.10/}"


@pytest.fixture(scope="module")
def pages():
    root = ElementTree.fromstring(bz2.decompress((SAMPLE / "wikicorpus_sample.xml.bz2").read_bytes()))
    assert root.tag == NAMESPACE + "mediawiki"
    return root.findall(NAMESPACE + "page")


@pytest.fixture(scope="module")
def books():
    return {path.name: path.read_bytes().decode("utf-8") for path in (SAMPLE / "books").glob("*.txt")}


def is_article(page):
    return page.findtext(NAMESPACE + "ns") == "0" and page.find(NAMESPACE + "redirect") is None


def prose(wikitext):
    """Roughly the running text of an article: no templates, tables, references, lists, headings or categories."""
    text = re.sub(r"<!--.*?-->|<ref.*?</ref>|\{\|.*?\|\}", "", wikitext, flags=re.DOTALL)
    text = re.sub(r"\{\{Unit\|([^{}|]*)\|([^{}|]*)\}\}", r"\1 \2", text)
    text = re.sub(r"\{\{[^{}]*\}\}", "", text)
    text = re.sub(r"\[\[(?:Category|File):.*?\]\]\n?|^[*#;=].*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[\[(?:[^\]|]*\|)?([^\]]*)\]\]", r"\1", text)
    return text.replace("''", "").strip()


@pytest.fixture(scope="module")
def texts(pages, books):
    articles = {
        page.findtext(NAMESPACE + "title"): prose(page.findtext(f"{NAMESPACE}revision/{NAMESPACE}text"))
        for page in pages
        if is_article(page)
    }
    return articles | books


def test_page_counts_by_namespace(pages):
    assert Counter(page.findtext(NAMESPACE + "ns") for page in pages) == {"0": 64, "10": 2, "1": 1, "14": 1}
    assert sum(map(is_article, pages)) == 60
    for tag in ("id", "title"):
        assert len({page.findtext(NAMESPACE + tag) for page in pages}) == len(pages)


def test_redirects_lead_to_articles(pages):
    titles = {page.findtext(NAMESPACE + "title") for page in pages if is_article(page)}
    targets = [page.find(NAMESPACE + "redirect") for page in pages]
    assert {target.get("title") for target in targets if target is not None} <= titles


def test_books_have_chapters(books):
    assert len(books) == 3
    for text in books.values():
        assert len(re.findall(r"^CHAPTER [A-Z]+$", text, flags=re.MULTILINE)) >= 6


def test_prose_size(texts):
    assert 130_000 <= sum(len(text.encode("utf-8")) for text in texts.values()) <= 200_000


def test_no_long_sentence_is_repeated(texts):
    sentences = Counter()
    for text in texts.values():
        sentences.update(s for s in re.split(r"(?<=[.!?])[\"']*\s+", text) if len(s) > 30)
    assert len(sentences) > 1000
    assert [s for s, count in sentences.items() if count > 1] == []
