"""BertTokenizer against the published algorithm, written here once more, plainly: a loop over characters."""

import json
import pickle
import unicodedata

import numpy as np
import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tokenization
from common.errors import UserError
from tokenization import SPECIAL_TOKENS, BasicTokenizer, BertTokenizer, load_vocab, open_tokenizer

PIECES = (
    *"abcdefghijklmnopqrstuvwxyzABCDEFGÉéß0123456789.,;:!?-'\"()[]/$+<=>^`|~@#&*%{}\\_",
    *(
        "中",
        "国",
        "ひ",
        "ο",
        "δ",
        "ς",
        "σ",
        "Σ",
        "\N{GRINNING FACE}",
        "\N{ZERO WIDTH JOINER}",
        "\N{COMBINING ACUTE ACCENT}",
    ),
    *(
        "un",
        "##aff",
        "##able",
        "##ed",
        "the",
        "##ing",
        "want",
        "##want",
        "mask",
        "##a",
        "##b",
        "##c",
        "##i",
        "##u",
        "##e",
    ),
    *("##ς", "##σ", "##ο", "##δ", "##é", "##É", "##t", "##s", "##n", "##\N{COMBINING ACUTE ACCENT}", "##ß", "##f"),
)

# Everything that has a rule of its own somewhere: in the algorithm, in str.split, in lower(), in normalization.
TROUBLESOME = [
    *SPECIAL_TOKENS,
    *(
        "[mask]",
        "a[MASK]b",
        "[MASK].",
        "\u200b[SEP]",
        "[MA\x01SK]",
        "[CLS]\u2028",
        "中[PAD]国",
        "[unused1]",
        "[[MASK]]",
    ),
    *("\x00", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x7f", "\x85", "\xa0", "\xad", "\t", "\n", "\r", " "),
    *("\u1680", "\u2003", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u200b", "\u200d", "\u2060", "\ufeff"),
    *("\ufffd", "\ue000", "\u0378", "\U0010ffff", "\ud800", "\udfff"),
    *(
        "İ",
        "ı",
        "ΟΔΟΣ",
        "Σ",
        "ΟΣΟ",
        "ΟΣ\u0301",
        "ẞ",
        "ŉ",
        "ǆ",
        "ﬁ",
        "K",
        "Å",
        "e\u0301",
        "é",
        "É",
        "\u0301",
        "한국",
        "か\u3099",
    ),
    *("中国", "\u3400", "\U00020000", "\U0002b820", "\U0002b91f", "\uf900", "\uff21", "ひらがな", "กำ", "हिन्दी"),
    *(
        "\N{GRINNING FACE}",
        "👩\u200d👩\u200d👧",
        "🏳\ufe0f",
        "✈\ufe0f",
        "«",
        "…",
        "—",
        "¿",
        "\u2e5d",
        "$",
        "^",
        "`",
        "~",
        "#",
        "##ing",
    ),
    *("unaffable", "UNWANTED", "Running", "a" * 100, "a" * 101, "é" * 60, "e\u0301" * 101, "-" * 101),
]

texts = st.lists(
    st.one_of(
        st.sampled_from(TROUBLESOME),
        st.text(st.characters(codec=None, categories=None, exclude_categories=()), max_size=6),
        st.text(st.sampled_from("".join(p for p in PIECES if len(p) == 1) + " "), max_size=12),
    ),
    max_size=12,
).flatmap(lambda parts: st.sampled_from(["", " "]).map(lambda glue: glue.join(parts)))


def category(char):
    return unicodedata.category(char)


def reference_clean(text, as_google=False):
    cleaned = ""
    for char in text:
        if char in ("\t", "\n", "\r") or category(char) == "Zs":
            cleaned += " "
        elif char != "\ufffd" and not (category(char) in ("Cc", "Cf", "Cs") if as_google else category(char)[0] == "C"):
            cleaned += char
    return cleaned


def reference_basic_tokens(text, do_lower_case, as_google=False):
    spaced = ""
    for char in reference_clean(text, as_google):
        point = ord(char)
        is_cjk = (
            0x4E00 <= point <= 0x9FFF
            or 0x3400 <= point <= 0x4DBF
            or 0x20000 <= point <= 0x2A6DF
            or 0x2A700 <= point <= 0x2CEAF  # three adjoining blocks
            or 0xF900 <= point <= 0xFAFF
            or 0x2F800 <= point <= 0x2FA1F
        )
        spaced += " " + char + " " if is_cjk else char

    pieces = []
    for token in spaced.split():
        if token in ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]") and not as_google:
            pieces.append(token)
            continue
        if do_lower_case:
            decomposed = unicodedata.normalize("NFD", token.lower())
            token = "".join(char for char in decomposed if category(char) != "Mn")
        word = ""
        for char in token:
            point = ord(char)
            ascii_punctuation = 33 <= point <= 47 or 58 <= point <= 64 or 91 <= point <= 96 or 123 <= point <= 126
            if ascii_punctuation or category(char)[0] == "P":
                pieces += [word, char]
                word = ""
            else:
                word += char
        pieces.append(word)
    return " ".join(pieces).split()


def reference_word_pieces(word, vocab, longest=100):
    if len(word) > longest:
        return ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            if prefix + word[start:end] in vocab:
                break
        else:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


def reference_tokens(text, vocab, do_lower_case):
    words = reference_basic_tokens(text, do_lower_case)
    return [piece for word in words for piece in reference_word_pieces(word, vocab)]


def write_vocab(path, tokens=(*SPECIAL_TOKENS, *PIECES)):
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    return write_vocab(tmp_path_factory.mktemp("vocab") / "vocab.txt")


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def tokenizer(request, vocab_file):
    return BertTokenizer(vocab_file, do_lower_case=request.param)


@pytest.mark.parametrize("text", TROUBLESOME)
def test_troublesome_text_alone_and_inside_a_word(tokenizer, text):
    for variant in (text, f"a{text}b", f"a {text} b", f"{text}.", text * 2):
        assert tokenizer.basic_tokenizer.tokenize(variant) == reference_basic_tokens(variant, tokenizer.do_lower_case)
        assert tokenizer.tokenize(variant) == reference_tokens(variant, tokenizer.vocab, tokenizer.do_lower_case)


@settings(max_examples=500, deadline=None)
@given(text=texts)
@example(text="a\x0cb\x85c\u2028d")
def test_any_unicode_text_gives_the_published_tokens(tokenizer, text):
    assert tokenizer.basic_tokenizer.tokenize(text) == reference_basic_tokens(text, tokenizer.do_lower_case)
    assert tokenizer.tokenize(text) == reference_tokens(text, tokenizer.vocab, tokenizer.do_lower_case)


@settings(max_examples=200, deadline=None)
@given(text=texts)
@example(text="[SEP] a\u0378b\ue000c " + 200 * "a" + " " + 201 * "a")  # unassigned, private, and long words
def test_googles_own_tokens(vocab_file, text):
    google = BertTokenizer(vocab_file, as_google=True)
    words = reference_basic_tokens(text, True, as_google=True)
    assert google.basic_tokenizer.tokenize(text) == words
    assert google.tokenize(text) == [p for word in words for p in reference_word_pieces(word, google.vocab, 200)]


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_every_character_of_unicode(do_lower_case):
    basic = BasicTokenizer(do_lower_case)
    # Unassigned and private characters are all deleted; a sample of their million is enough.
    points = [point for point in range(0x110000) if point % 101 == 0 or category(chr(point)) not in ("Cn", "Co")]
    for start in range(0, len(points), 64):
        text = " ".join(f"a{chr(point)}b" for point in points[start : start + 64])
        assert basic.tokenize(text) == reference_basic_tokens(text, do_lower_case)


@settings(max_examples=300, deadline=None)
@given(
    text=texts,
    do_lower_case=st.booleans(),
    strip_accents=st.sampled_from([None, True, False]),
    splits_cjk=st.booleans(),
)
@example("Ünter 中国 हिन्दी 한국", True, False, False)
@example("Ünter 中国 हिन्दी 한국", False, True, True)
def test_agrees_with_hugging_face_slow_tokenizer(vocab_file, text, do_lower_case, strip_accents, splits_cjk):
    legacy = pytest.importorskip(
        "transformers.models.bert.tokenization_bert_legacy",
        reason="this transformers has no pure-Python BERT tokenizer",
    )
    # Hugging Face composes (NFC) what is left after cleaning, which the published code does not: start from such text.
    text = unicodedata.normalize("NFC", reference_clean(text))
    ours = BertTokenizer(vocab_file, do_lower_case, strip_accents, splits_cjk)
    basic = legacy.BasicTokenizer(do_lower_case, SPECIAL_TOKENS, splits_cjk, strip_accents)
    word_piece = legacy.WordpieceTokenizer(vocab=ours.vocab, unk_token="[UNK]")
    assert ours.basic_tokenizer.tokenize(text) == basic.tokenize(text)
    assert ours.tokenize(text) == [piece for word in basic.tokenize(text) for piece in word_piece.tokenize(word)]


@pytest.mark.parametrize(
    ("text", "uncased", "cased"),
    [
        ("UNAFFABLE unaffable", "un ##aff ##able un ##aff ##able", "[UNK] un ##aff ##able"),
        ("É é e\u0301", "e e e", "É é e ##\u0301"),
        ("ΟΔΟΣ", "ο ##δ ##ο ##ς", "[UNK]"),
        ("a\x0cb\x85c", "a ##b ##c", "a ##b ##c"),
        ("a\u2028b", "a b", "a b"),
        ("a中国b", "a 中 国 b", "a 中 国 b"),
        ("[MASK] [mask] a[MASK]", "[MASK] [ mask ] a [ mask ]", "[MASK] [ mask ] a [ [UNK] ]"),
        ("b" * 101, "[UNK]", "[UNK]"),
        ("a" * 100, "a" + " ##a" * 99, "a" + " ##a" * 99),
    ],
)
def test_tokens_worked_by_hand(vocab_file, text, uncased, cased):
    assert BertTokenizer(vocab_file, do_lower_case=True).tokenize(text) == uncased.split(" ")
    assert BertTokenizer(vocab_file, do_lower_case=False).tokenize(text) == cased.split(" ")


@settings(max_examples=50, deadline=None)
@given(batch=st.lists(texts, max_size=6))
def test_encode_batch_gives_flat_ids_and_offsets(tokenizer, batch):
    ids, offsets = tokenizer.encode_batch(batch)
    assert (ids.dtype, offsets.dtype, offsets.shape) == (np.int32, np.int64, (len(batch) + 1,))
    assert (offsets[0], offsets[-1]) == (0, len(ids))
    for i, text in enumerate(batch):
        expected = [tokenizer.vocab[t] for t in reference_tokens(text, tokenizer.vocab, tokenizer.do_lower_case)]
        assert ids[offsets[i] : offsets[i + 1]].tolist() == expected


def test_full_cache_changes_nothing(vocab_file, monkeypatch):
    monkeypatch.setattr(tokenization, "MAX_CACHED_WORDS", 2)
    tokenizer = BertTokenizer(vocab_file)
    text = "the unaffable, wanted mask. " * 3
    assert tokenizer.tokenize(text) == reference_tokens(text, tokenizer.vocab, True)
    assert len(tokenizer._ids_of_word) == 2


def test_real_text_and_vocabulary(reference_data):
    tokenizer = BertTokenizer(reference_data / "bert-base-uncased-vocab.txt")
    questions = json.loads((reference_data / "squad-v1.1-sample.json").read_text())["data"]
    contexts = [paragraph["context"] for article in questions for paragraph in article["paragraphs"]]
    ids, offsets = tokenizer.encode_batch(contexts)
    for i, context in enumerate(contexts):
        tokens = tokenizer.convert_ids_to_tokens(ids[offsets[i] : offsets[i + 1]])
        assert tokens == reference_tokens(context, tokenizer.vocab, True)
    assert (tokenizer.vocab_size, tokenizer.mask_token_id) == (30522, 103)


def test_special_token_ids_and_conversions(tokenizer):
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id) == (2, 3, 4)
    ids = tokenizer.convert_tokens_to_ids(["un", "##aff", "##able"])
    assert tokenizer.convert_ids_to_tokens(ids) == ["un", "##aff", "##able"]
    with pytest.raises(KeyError):
        tokenizer.convert_tokens_to_ids(["no such token"])
    for index in (-1, tokenizer.vocab_size):
        with pytest.raises(KeyError):
            tokenizer.convert_ids_to_tokens([index])


def test_survives_pickling_for_worker_processes(tokenizer):
    text = "Unaffable ΟΔΟΣ [MASK] 中国"
    tokens = tokenizer.tokenize(text)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.tokenize(text) == tokens
    assert copy.tokenize("the mask é") == tokenizer.tokenize("the mask é")


def test_windows_line_ends_and_missing_last_newline(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join([*SPECIAL_TOKENS, "\u3000", "a "]).encode())
    assert list(load_vocab(path)) == [*SPECIAL_TOKENS, "\u3000", "a"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no vocabulary file at"),
        ("[PAD]\n[UNK]\n[SEP]\na\n", r"lacks \[CLS\], \[MASK\]; .*train_vocab.py"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_bad_vocabulary_is_named_with_a_remedy(tmp_path, content, sentence):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=sentence) as error:
        BertTokenizer(path)
    assert str(path) in str(error.value)


def test_from_pretrained_takes_a_file_a_folder_or_a_downloaded_model(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    path = write_vocab(folder / "vocab.txt", [*SPECIAL_TOKENS, "a"])
    assert BertTokenizer.from_pretrained(path).do_lower_case
    assert BertTokenizer.from_pretrained(str(folder)).vocab == load_vocab(path)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert not BertTokenizer.from_pretrained(folder).do_lower_case
    assert BertTokenizer.from_pretrained(folder, do_lower_case=True).do_lower_case

    for name, model_folder, do_lower_case in (
        ("bert-large-uncased", "uncased_L-24_H-1024_A-16", True),
        ("bert-base-multilingual-cased", "multi_cased_L-12_H-768_A-12", False),
    ):
        cached = tmp_path / "download" / "google_pretrained_weights" / model_folder
        cached.mkdir(parents=True)
        write_vocab(cached / "vocab.txt", [*SPECIAL_TOKENS, "a"])
        monkeypatch.setenv("BERT_PREP_WORKING_DIR", str(tmp_path))
        assert BertTokenizer.from_pretrained(name).do_lower_case is do_lower_case
        monkeypatch.delenv("BERT_PREP_WORKING_DIR")
        assert BertTokenizer.from_pretrained(name, cache_dir=cached.parent).do_lower_case is do_lower_case


def test_from_pretrained_names_what_it_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"no vocabulary file at .*uncased_L-12_H-768_A-12/vocab\.txt"):
        BertTokenizer.from_pretrained("bert-base-uncased", cache_dir=tmp_path)
    with pytest.raises(UserError, match=r"no vocabulary file at no-such-model; give --vocab_file"):
        BertTokenizer.from_pretrained("no-such-model")
    with pytest.raises(UserError, match=r"no vocabulary file at .*vocab\.txt"):
        BertTokenizer.from_pretrained(tmp_path)
    write_vocab(tmp_path / "vocab.txt")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is no configuration: it is not JSON"):
        BertTokenizer.from_pretrained(tmp_path)


LATIN = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"), "the", "river"]
CASED = [*LATIN, *"ABCDEFGHIJ", "The", "River"]
CHINESE = [*LATIN, *"是一种水果长在树上哪里", "<S>", "<T>"]
HINDI = [*LATIN, *["गंगा", "नदी", "हिमालय", "से", "निकलती", "है", "यह", "बंगाल", "में"]]
GERMAN = [*LATIN, "münchen", "schöne", "für", "wäre"]
KOREAN = [*LATIN, "한국", "나라", "사람", "서울"]
ARABIC = [*LATIN, "كتاب", "مدينة", "نهر", "بيت", "ملك", "قديم", "ماء"]


@pytest.mark.parametrize(
    ("words", "said", "lower_cases"),
    [
        (LATIN, None, True),
        (LATIN, True, True),
        (LATIN, False, r"is an uncased one.*do_lower_case False; give --do_lower_case"),
        (CASED, None, False),
        (CASED, False, False),
        (CASED, True, r"is a cased one.*do_lower_case True; give --no-do_lower_case"),
        ([*LATIN, "I"], None, True),  # a stray capital
        ([*LATIN, "I"], True, True),
        ([*LATIN, "é"], None, True),  # a stray accent
        (CHINESE, None, True),
        (CHINESE, True, True),
        (CHINESE, False, False),
        (ARABIC, None, True),
        (ARABIC, False, False),
        *((words, False, False) for words in (HINDI, GERMAN, KOREAN)),
        *(
            (words, said, r"vowel signs, which do_lower_case True would strip; give --no-do_lower_case; or.*")
            for words in (HINDI, GERMAN, KOREAN)
            for said in (None, True)
        ),
    ],
)
def test_what_is_said_of_casing_is_held_against_the_words(tmp_path, words, said, lower_cases):
    path = write_vocab(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, *words])
    if isinstance(lower_cases, bool):
        assert open_tokenizer(path, said).do_lower_case is lower_cases
    else:
        with pytest.raises(UserError, match=lower_cases):
            open_tokenizer(path, said)


def test_the_remedy_for_a_lower_cased_vocabulary_with_accents_works(tmp_path):
    path = write_vocab(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, *GERMAN])
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true, "strip_accents": false}')
    assert open_tokenizer(path).tokenize("Schöne MÜNCHEN") == ["schöne", "münchen"]


def test_who_decides_the_casing(tmp_path):
    """The user, the files beside the vocabulary, those of the model, the name that Google gave, the words."""
    folder, model = tmp_path / "cased_L-12_H-768_A-12", tmp_path / "model"
    folder.mkdir()
    model.mkdir()
    path = write_vocab(folder / "vocab.txt", [*SPECIAL_TOKENS, "a"])
    assert str(open_tokenizer(write_vocab(tmp_path / "v.txt", [*SPECIAL_TOKENS, "a"]))).endswith(
        "v.txt: lower-cases text, strips accents, according to the capitals in its words"
    )
    assert str(open_tokenizer(path)).endswith(f"keeps accents, according to the name of the folder {folder}")
    (model / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenize_chinese_chars": false}')
    with pytest.raises(UserError, match=r"model/tokenizer_config\.json says do_lower_case True, and the name of"):
        open_tokenizer(path, model_folder=model)
    path = write_vocab(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, "a"])
    assert str(open_tokenizer(path, model_folder=model)).endswith(
        f"strips accents, joins Chinese characters, according to {model / 'tokenizer_config.json'}"
    )
    assert open_tokenizer(path, False, model).rules["tokenize_chinese_chars"] is False
    assert "according to --no-do_lower_case" in str(open_tokenizer(path, False))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(UserError, match=r"model/.*says do_lower_case True, and .* says False; give --vocab_file"):
        open_tokenizer(path, model_folder=model)
    assert open_tokenizer(path, True, model).do_lower_case
    for wrong in (True, None):
        write_vocab(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, *CASED])
        (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
        with pytest.raises(UserError, match="is a cased one"):
            open_tokenizer(path, wrong)


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ("\ufeff{}\na\nb\n", {"a": 5, "b": 6}),
        ("\ufeff{}\r\na\r\nb\r\n", {"a": 5, "b": 6}),
        ("{}\nking\nqueen\nqueen\nthe\n", {"king": 5, "queen": 7, "the": 8}),  # the last counts, as in transformers
        ("{}\na\n\nb\n\n\n", {"a": 5, "b": 7}),
        ("{}\na\n\n\nb", {"a": 5, "b": 8}),
    ],
)
def test_a_tokens_id_is_its_lines_number(tmp_path, content, ids):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content.format("\n".join(SPECIAL_TOKENS)).encode())
    tokenizer = BertTokenizer(path)
    tokens, found = list(ids), tokenizer.encode_batch([" ".join(ids)])[0].tolist()
    assert found == list(ids.values())
    assert tokenizer.vocab_size == max(found) + 1 == len(tokenizer.vocab)
    assert tokenizer.convert_ids_to_tokens(found) == tokens
    assert tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size)) == list(tokenizer.vocab)
    theirs = transformers.models.bert.tokenization_bert.load_vocab(path)
    if not content.startswith("\ufeff"):  # which transformers takes for a part of the first token
        assert {token: theirs[token] for token in ids} == ids
