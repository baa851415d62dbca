"""Sentence splitting: hand-picked English, nothing lost, and the splitter says which one it is."""

import unicodedata

import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data.corpus.sentences
from data.corpus.sentences import MAX_PIECE, RUNS_ON, count_words, split_sentences, splitter_name


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


OF_SCRIPTS = {
    "Chinese": ["桥在城市的北边，很老。", "他说：“你好！”", "真的？！", "圆周率是３．１４。", "Yahoo!奇摩是公司。"],
    "Chinese with ASCII marks": ["真的!", "你好吗?", "很好。"],
    "Japanese": ["これは橋です。", "「そうですか？」", "ｶﾅもある｡", "終わり．", "はい"],
    "Hindi": ["यह पुल पुराना है।", "क्या हाल है?", "ठीक है॥"],
    "Arabic": ["هذه جملة.", "هل هذا صحيح؟", "نعم."],
    "Urdu": ["یہ ایک جملہ ہے۔", "کیا حال ہے؟", "دوسرا۔"],
    "Burmese": ["တံတားဟောင်းပါ။", "မြစ်ကျယ်ပါတယ်။"],
    "Khmer": ["ស្ពាននេះចាស់។", "ទន្លេធំ៕"],
    "Ethiopic": ["ድልድዩ አሮጌ ነው።", "ወንዙ ሰፊ ነው፧"],
    "Armenian": ["Կամուրջը հին է։", "Գետը լայն է։"],
    "Russian": ["Мост стар.", "Река широка!", "Да?"],
}


@pytest.mark.parametrize("script", OF_SCRIPTS)
@pytest.mark.parametrize("space", [" ", ""])
def test_marks_of_other_scripts(untrained, script, space):
    sentences = OF_SCRIPTS[script]
    if space or script in ("Chinese", "Chinese with ASCII marks", "Japanese", "Urdu", "Khmer"):
        assert split_sentences(space.join(sentences)) == sentences
    elif script in ("Hindi", "Burmese", "Ethiopic", "Armenian"):  # without the ASCII marks, which need a space
        assert split_sentences(sentences[0] + sentences[-1]) == [sentences[0], sentences[-1]]


def letters_of(text):
    return "".join(text.split())


@pytest.mark.parametrize("space", [" ", ""])
@pytest.mark.parametrize("clause", ["สะพานนี้เก่ามากและแม่น้ำกว้าง", "ཟམ་པ་འདི་རྙིང་པ་རེད།"])
def test_scripts_without_marks_are_cut_where_they_run_on(clause, space):
    for n_clauses in (1, 200):
        document = space.join([clause] * n_clauses)
        pieces = split_sentences(document)
        assert letters_of("".join(pieces)) == letters_of(document)
        if len(document) <= RUNS_ON:
            assert pieces == [document]
        else:
            assert max(map(len, pieces)) <= MAX_PIECE < 2 * len(document) / len(pieces)
            assert not any(unicodedata.category(piece[0]).startswith("M") for piece in pieces)
            if space:
                assert {word for piece in pieces for word in piece.split()} == {clause}


@settings(deadline=None)
@given(st.text(st.sampled_from("ab .!?’é”ü— 12中ก"), max_size=60))
def test_latin_letters_and_their_quotes_change_no_sentence(document):
    punkt = [piece.strip() for piece in data.corpus.sentences._punkt().tokenize(document) if piece.strip()]
    if not set("中ก") & set(document):
        assert split_sentences(document) == punkt


def test_a_document_may_take_longer_than_the_library_allows_a_pattern(no_splitter_kept, monkeypatch):
    monkeypatch.setattr(nltk.redos, "DEFAULT_TIMEOUT", 1e-6)
    assert len(split_sentences("One is here. Two is there. " * 2000)) == 4000


@pytest.mark.parametrize(
    ("text", "n_words"),
    [
        ("", 0),
        ("the old bridge", 3),
        ("naïve façade — “quoted”", 4),
        ("Sun Tzu (孫子; Sūn Zǐ)", 5),  # mostly of a script with spaces: they count
        ("这座石桥在城市的北边", 5),
        ("これはふるい橋です", 4),
        ("สะพานนี้เก่ามากและ", 3),
        ("다리는 오래 되었다", 3),
    ],
)
def test_words(text, n_words):
    assert count_words(text) == n_words


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
