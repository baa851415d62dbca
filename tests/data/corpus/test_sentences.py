"""Sentence splitting: hand-picked English, nothing lost, and the splitter says which one it is."""

import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data.corpus.sentences
from data.corpus.sentences import split_sentences, splitter_name


@pytest.fixture
def no_splitter_kept():
    data.corpus.sentences._punkt.cache_clear()
    yield
    data.corpus.sentences._punkt.cache_clear()


@pytest.fixture
def untrained(no_splitter_kept, monkeypatch, tmp_path):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rained.", "Nobody minded!", "Why?", "The fields were dry."],
        ["Dr. Smith met Mrs. Jones at St. Mary's in Jan. 1901.", "They talked for approx. two hours."],
        ["He was born c. 1450 in Ghent.", "She sold it for 3.5 million."],
        ['"I am going," she said.', '"Stay here."'],
        ["One without an end"],
    ],
)
def test_english(untrained, sentences):
    assert split_sentences(" ".join(sentences)) == sentences


def test_nothing_comes_of_nothing():
    assert split_sentences("") == []
    assert split_sentences(" \t ") == []


@settings(deadline=None)
@given(st.text(st.sampled_from("abAB .?!\"'()\u00e9\u4e2d,;-1")))
def test_no_character_is_lost(document):
    sentences = split_sentences(document)
    assert "".join("".join(sentences).split()) == "".join(document.split())
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)


def test_name_tells_whether_parameters_are_installed(no_splitter_kept):
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        assert "untrained" in splitter_name()
    else:
        assert splitter_name() == "nltk punkt_tab (trained)"


def test_trained_parameters_are_used_where_they_are(no_splitter_kept, monkeypatch, tmp_path):
    """A miniature punkt_tab whose only abbreviation no list would hold."""
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    (folder / "abbrev_types.txt").write_text("zorg\n", encoding="utf-8")
    for name in ("collocations.tab", "sent_starters.txt", "ortho_context.tab"):
        (folder / name).write_text("", encoding="utf-8")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    assert splitter_name() == "nltk punkt_tab (trained)"
    assert split_sentences("The zorg. Alpha is here. It stays.") == ["The zorg. Alpha is here.", "It stays."]


def test_without_parameters_it_works_from_rules(untrained):
    assert "untrained" in splitter_name()
    assert split_sentences("The zorg. Alpha is here.") == ["The zorg.", "Alpha is here."]
