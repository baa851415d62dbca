"""Tokens' places: worked out by hand, as the tokenizers library has them, and what must hold of any text."""

import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from tasks.squad.examples import read_squad
from tasks.squad.token_offsets import OffsetTokenizer
from tokenization import SPECIAL_TOKENS, UNK, BertTokenizer

LETTERS = "abcdeiklmnostuxABÉéßοσςδ\N{COMBINING ACUTE ACCENT}中国한"
PIECES = [*LETTERS, *(f"##{letter}" for letter in LETTERS), *".,-()[]'", "the", "##able", "un", "##aff", "MASK"]

TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    "unaffable",
                    "The",
                    "été",
                    "e\u0301te\u0301",
                    "\u0301a",
                    "e\u0323\u0301",
                    "İxİ",
                    "ΟΔΟΣ",
                    "한",
                    "中国a中",
                ),
                *(
                    "[MASK]",
                    "[MASK]x",
                    "[UNK]",
                    "[unk]",
                    "a" * 101,
                    "éb" * 50,
                    "zzz",
                    "z.a",
                    "a-b,c",
                    "ﬁx",
                    "कि",
                    "✈\ufe0f",
                ),
                *(
                    "\u302e\u16ff0a",
                    "a\u0301\u302e\u0323b",
                    "a\u034f\u302e\u0345b",
                    "Å",
                    "\ud800",
                    "\ufffd",
                    "か\u3099",
                ),
                *("\u200b", "\u200d", "\ufeff", "\x00", "\x0b", "\x1c", "\x85", "\xad", "\xa0", "\u2028", "\u3000"),
                *(" ", "\n", "\t", "\r\n", "  "),
            ]
        ),
        st.text(max_size=4),
        st.text(st.sampled_from(LETTERS + ".- \u200b"), max_size=10),
    ),
    max_size=10,
).map("".join)


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, *PIECES]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def uncased(vocab_file):
    return BertTokenizer(vocab_file, do_lower_case=True)


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def tokenizer(request, vocab_file):
    return BertTokenizer(vocab_file, do_lower_case=request.param)


def placed(tokenizer, text):
    """[(token, its slice of the text)]"""
    tokens = OffsetTokenizer(tokenizer).encode(text)
    slices = [text[start:end] for start, end in zip(tokens.starts, tokens.ends, strict=True)]
    return list(zip(tokenizer.convert_ids_to_tokens(tokens.ids), slices, strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\u200b\x0b ", []),
        ("Unaffable, the", [("un", "Un"), ("##aff", "aff"), ("##able", "able"), (",", ","), ("the", "the")]),
        ("été", [("e", "é"), ("##t", "t"), ("##e", "é")]),
        ("e\u0301te\u0301\u0323 a", [("e", "e\u0301"), ("##t", "t"), ("##e", "e\u0301\u0323"), ("a", "a")]),
        ("\u0301a", [("a", "a")]),  # an accent on nothing is no part of what follows
        ("a\u200b\u0301b", [("a", "a\u200b\u0301"), ("##b", "b")]),
        ("İx", [("i", "İ"), ("##x", "x")]),  # lower() makes two characters of it, of which one is stripped
        ("ΟΣ", [("ο", "Ο"), ("##ς", "Σ")]),
        ("한a", [("ᄒ", "한"), ("##ᅡ", "한"), ("##ᆫ", "한"), ("##a", "a")]),
        ("한\u0301", [("ᄒ", "한\u0301"), ("##ᅡ", "한\u0301"), ("##ᆫ", "한\u0301")]),
        ("a中国b", [("a", "a"), ("中", "中"), ("国", "国"), ("b", "b")]),
        ("the\u200b th\u200be", [("the", "the"), ("the", "th\u200be")]),
        ("a\x0bb", [("a", "a"), ("##b", "b")]),
        ("zz. [MASK] [a]", [("[UNK]", "zz"), (".", "."), ("[MASK]", "[MASK]"), ("[", "["), ("a", "a"), ("]", "]")]),
    ],
)
def test_places_worked_out_by_hand(uncased, text, expected):
    assert placed(uncased, text) == expected


def test_cased_text_keeps_its_accents_as_tokens(vocab_file):
    tokenizer = BertTokenizer(vocab_file, do_lower_case=False)
    assert placed(tokenizer, "Aé e\u0301") == [("A", "A"), ("##é", "é"), ("e", "e"), ("##\u0301", "\u0301")]


def without_forms(text):
    # One letter has two lower-case forms, and which one follows from its neighbors.
    return unicodedata.normalize("NFD", text).replace("ς", "σ")


@given(text=TEXTS)
@example(text="")
@settings(deadline=None, max_examples=400)
def test_of_any_text(tokenizer, text):
    tokens = OffsetTokenizer(tokenizer).encode(text)
    assert [tokenizer._tokens[i] for i in tokens.ids] == tokenizer.tokenize(text)
    assert tokens.ids.dtype == tokens.starts.dtype == tokens.ends.dtype == np.int32
    assert (tokens.starts < tokens.ends).all()
    assert (np.diff(tokens.starts) >= 0).all()
    assert (np.diff(tokens.ends) >= 0).all()
    covered = np.zeros(len(text), dtype=bool)
    for token, start, end in zip(tokenizer.tokenize(text), tokens.starts, tokens.ends, strict=True):
        covered[start:end] = True
        assert not any(char.isspace() and tokenizer.tokenize(char) for char in text[start:end])
        if token not in SPECIAL_TOKENS and not any(unicodedata.combining(c) for c in token):
            normalized = "".join(tokenizer.basic_tokenizer.tokenize(text[start:end]))
            assert without_forms(token.removeprefix("##")) in without_forms(normalized)
    for place in np.flatnonzero(~covered):
        assert tokenizer.tokenize(text[place]) == []  # only what the tokenizer deletes is in no token


def test_a_word_is_tokenized_once_and_placed_everywhere(tokenizer):
    offsets = OffsetTokenizer(tokenizer)
    text = "the un the\nthe"
    first, second = offsets.encode(text), offsets.encode(text)
    assert first.starts.tolist() == second.starts.tolist() == [0, 4, 7, 11]
    assert first.ends.tolist() == [3, 6, 10, 14]


def test_real_contexts_as_the_tokenizers_library_places_them(reference_data):
    tokenizer = BertTokenizer(reference_data / "bert-base-uncased-vocab.txt")
    library = Tokenizer(WordPiece(tokenizer.vocab, unk_token=UNK, max_input_chars_per_word=100))
    library.normalizer = BertNormalizer(lowercase=True)
    library.pre_tokenizer = BertPreTokenizer()
    examples = read_squad(reference_data / "squad-v1.1-sample.json", False, True, report=lambda sentence: None)
    offsets = OffsetTokenizer(tokenizer)
    contexts = {example.context for example in examples}
    assert len(contexts) > 100
    for context in contexts:
        expected = library.encode(context, add_special_tokens=False)
        tokens = offsets.encode(context)
        assert tokens.ids.tolist() == expected.ids
        assert list(zip(tokens.starts.tolist(), tokens.ends.tolist(), strict=True)) == expected.offsets
