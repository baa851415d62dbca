"""Tokens are those of transformers by the settings of published models; another tokenizer's settings are refused."""

import json

import pytest
import transformers
from published_weights import TINY, random_model

from common.errors import UserError
from common.tokenizer_files import SPECIAL_TOKENS, read_vocabulary, vocabulary_in
from pretrained.hugging_face import write_hugging_face
from pretrained.load import Pretrained
from tokenization import BertTokenizer, load_vocab, open_tokenizer

TEXTS = (
    "Die Brücke über die Isar in MÜNCHEN, für 3 €.",
    "Älvorna i SVERIGE är små; IŞIK ve çay",
    "गंगा नदी हिमालय से निकलती है।",
    "서울은 한국의 수도이다",
    "东京是日本的首都 and Tokyo",
    "Мой дом [MASK] стоит",
)


def vocabulary(do_lower_case, strip_accents, tokenize_chinese_chars):
    """Words and characters of TEXTS as such a tokenizer, of transformers, makes them."""
    legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")
    basic = legacy.BasicTokenizer(do_lower_case, SPECIAL_TOKENS, tokenize_chinese_chars, strip_accents)
    words = [word for text in TEXTS for word in basic.tokenize(text) if word not in SPECIAL_TOKENS]
    characters = [char for word in words for char in word]
    # Every other word is in pieces.
    return list(dict.fromkeys([*SPECIAL_TOKENS, *words[::2], *characters, *(f"##{char}" for char in characters)]))


PUBLISHED = {
    "bert-base-uncased": {"do_lower_case": True, "model_max_length": 512},
    "bert-base-cased": {"do_lower_case": False, "model_max_length": 512},
    "bert-base-chinese": {"do_lower_case": False},  # as Hugging Face publishes it
    "dbmdz/bert-base-german-uncased": {"do_lower_case": True, "strip_accents": False, "max_len": 512},
    "KB/bert-base-swedish-cased": {"do_lower_case": False, "strip_accents": False},
    "google/muril-base-cased": {"do_lower_case": False, "strip_accents": False, "init_inputs": []},
    "kykim/bert-kor-base": {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": True},
    "capitals without accents": {"do_lower_case": False, "strip_accents": True},
    "joined Chinese characters": {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": False},
    "saved by transformers 4": {
        "added_tokens_decoder": {
            str(i): {"content": token, "lstrip": False, "special": True} for i, token in enumerate(SPECIAL_TOKENS)
        },
        "clean_up_tokenization_spaces": True,
        "cls_token": "[CLS]",
        "do_basic_tokenize": True,
        "do_lower_case": True,
        "mask_token": {"content": "[MASK]", "single_word": False, "__type": "AddedToken"},
        "never_split": None,
        "strip_accents": None,
        "tokenizer_class": "BertTokenizer",
        "unk_token": "[UNK]",
        "additional_special_tokens": [],
    },
}


def agree(theirs, ours):
    for text in TEXTS:
        assert ours.tokenize(text) == theirs.tokenize(text)
        assert ours.encode_batch([text])[0].tolist() == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("settings", PUBLISHED.values(), ids=PUBLISHED)
def test_tokens_are_those_of_transformers(tmp_path, settings):
    folder, saved, written = (tmp_path / name for name in ("published", "saved", "written"))
    folder.mkdir()
    tokens = vocabulary(
        settings["do_lower_case"], settings.get("strip_accents"), settings.get("tokenize_chinese_chars", True)
    )
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = transformers.BertTokenizer.from_pretrained(folder)
    ours = BertTokenizer.from_pretrained(folder)
    agree(theirs, ours)
    # As transformers 5 saves it, without a vocab.txt; and without its settings, which tokenizer.json has once more.
    theirs.save_pretrained(saved)
    assert not (saved / "vocab.txt").exists()
    agree(theirs, open_tokenizer(saved / "tokenizer.json"))
    (saved / "tokenizer_config.json").unlink()
    agree(transformers.AutoTokenizer.from_pretrained(saved), BertTokenizer.from_pretrained(saved))
    # As this program writes it.
    write_hugging_face(written, Pretrained(folder, random_model().state_dict(), TINY, None), tokenizer=ours)
    agree(transformers.AutoTokenizer.from_pretrained(written), BertTokenizer.from_pretrained(written))


VOCAB = {token: index for index, token in enumerate([*SPECIAL_TOKENS, "a", "river"])}


@pytest.fixture
def folder(tmp_path):
    """As Google's archive: a vocabulary alone."""
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "a", "river"]) + "\n")
    return tmp_path


def backend(**parts):
    """A tokenizer.json of the folder's vocabulary, with other parts."""
    usual = {
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": VOCAB,
        },
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
        | {"lowercase": True, "strip_accents": None},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
    }
    others = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None, "decoder": None}
    others |= {"added_tokens": parts.get("added_tokens", [])}
    return {name: value | parts.get(name, {}) for name, value in usual.items()} | others


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class"),
        ("tokenizer_config.json", {"tokenizer_class": "RobertaTokenizerFast"}, "tokenizer_class"),
        ("tokenizer_config.json", {"tokenizer_class": "AlbertTokenizer"}, "tokenizer_class"),
        ("config.json", {"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class"),
        ("tokenizer_config.json", {"do_basic_tokenize": False}, "do_basic_tokenize"),
        ("tokenizer_config.json", {"word_tokenizer_type": "mecab"}, "word_tokenizer_type"),
        ("tokenizer_config.json", {"subword_tokenizer_type": "character"}, "subword_tokenizer_type"),
        ("tokenizer_config.json", {"never_split": ["[MASK]", "<S>"]}, "never_split has '<S>'"),
        ("tokenizer_config.json", {"unk_token": "<unk>"}, "unk_token is '<unk>'"),
        ("tokenizer_config.json", {"cls_token": {"content": "<s>"}}, "cls_token is '<s>'"),
        ("tokenizer_config.json", {"additional_special_tokens": ["[Q]"]}, r"has '\[Q\]'"),
        ("tokenizer_config.json", {"extra_special_tokens": {"q": "[Q]"}}, r"has '\[Q\]'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"content": "[Q]"}}}, r"has '\[Q\]'"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Tokenizer", None]}}, "auto_map"),
        ("tokenizer_config.json", {"do_lower_case": "false"}, "do_lower_case is 'false'; write true or false"),
        ("tokenizer_config.json", {"strip_accents": 1}, "strip_accents is 1; write true or false"),
        ("special_tokens_map.json", {"sep_token": "</s>"}, "sep_token is '</s>'"),
        ("added_tokens.json", {"[Q]": 7}, r"added_tokens has '\[Q\]'"),
        ("tokenizer.json", backend(model={"type": "BPE"}), "model is 'BPE'"),
        ("tokenizer.json", backend(model={"unk_token": "<unk>"}), "unk_token"),
        ("tokenizer.json", backend(model={"continuing_subword_prefix": "@@"}), "wordpieces_prefix is '@@'"),
        ("tokenizer.json", backend(model={"max_input_chars_per_word": 30}), "max_input_chars_per_word is 30"),
        ("tokenizer.json", backend(normalizer={"type": "Sequence"}), "normalizer is 'Sequence'"),
        ("tokenizer.json", backend() | {"normalizer": None}, "normalizer is 'none'"),
        ("tokenizer.json", backend(normalizer={"clean_text": False}), "clean_text is False"),
        ("tokenizer.json", backend(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer is 'Whitespace'"),
        ("tokenizer.json", backend(added_tokens=[{"id": 7, "content": "[Q]"}]), r"has '\[Q\]'"),
        ("tokenizer.json", backend(model={"vocab": {**VOCAB, "a": 6, "river": 5}}), "hold different vocabularies"),
        ("tokenizer_config.json", [1], "holds no JSON object"),
    ],
)
def test_what_would_give_other_tokens_is_refused_by_its_name(folder, name, content, key):
    (folder / name).write_text(json.dumps(content))
    for open_it in (BertTokenizer.from_pretrained, lambda folder: open_tokenizer(folder / "vocab.txt", True)):
        with pytest.raises(UserError, match=key) as raised:
            open_it(folder)
        assert all(str(folder / name) in sentence for sentence in raised.value.sentences)
    (folder / "other").mkdir()  # equally beside the weights, where the vocabulary is another folder's
    (folder / "vocab.txt").rename(folder / "other/vocab.txt")
    if "different vocabularies" not in key:
        with pytest.raises(UserError, match=key):
            open_tokenizer(folder / "other/vocab.txt", model_folder=folder)


def test_everything_that_is_refused_comes_at_once(folder):
    (folder / "tokenizer_config.json").write_text(
        '{"never_split": ["x"], "strip_accents": "no", "mask_token": "<mask>"}'
    )
    (folder / "added_tokens.json").write_text('{"[Q]": 7}')
    with pytest.raises(UserError) as raised:
        open_tokenizer(folder / "vocab.txt")
    assert len(raised.value.sentences) == 4


def test_which_file_counts(folder):
    """As in transformers: the settings, but for the classes that are nothing but their tokenizer.json."""
    (folder / "tokenizer.json").write_text(json.dumps(backend(normalizer={"lowercase": False})))
    assert not BertTokenizer.from_pretrained(folder).do_lower_case
    for name, lower_cases in (
        ("BertTokenizer", True),
        ("PreTrainedTokenizerFast", False),
        ("TokenizersBackend", False),
    ):
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, "do_lower_case": True}))
        lower_cases = name == "BertTokenizer"
        assert BertTokenizer.from_pretrained(folder).do_lower_case is lower_cases
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert (theirs.tokenize("RIVER") == ["river"]) is lower_cases


def test_odd_lines_are_no_difference_between_the_two_forms(folder):
    (folder / "vocab.txt").write_text(
        "\n".join([*SPECIAL_TOKENS, "king", "queen", "\u3000", "queen", "", "the"]) + "\n\n"
    )
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    assert open_tokenizer(folder / "vocab.txt").convert_tokens_to_ids(["king", "queen", "the"]) == [5, 8, 10]
    assert open_tokenizer(folder / "tokenizer.json").convert_tokens_to_ids(["king", "queen", "the"]) == [5, 8, 10]


def test_other_programs_configurations_are_passed_over(folder):
    (folder / "config.json").write_text('{"model": "gpt", "normalizer": {"type": "x"}, "unk_token": 3}')
    assert open_tokenizer(folder / "vocab.txt").do_lower_case


def test_a_vocabulary_in_a_tokenizer_json(folder):
    path = folder / "tokenizer.json"
    assert vocabulary_in(folder) == folder / "vocab.txt"
    # Of a token that is twice in a vocab.txt, the first id is nobody's in a tokenizer.json.
    path.write_text(json.dumps({"model": {"vocab": {"a": 7, **{t: i for i, t in enumerate(SPECIAL_TOKENS)}, "b": 6}}}))
    assert read_vocabulary(path) == [*SPECIAL_TOKENS, "", "b", "a"]
    assert load_vocab(path)["a"] == 7
    for vocab in (
        {"a": 10**9},
        {"a": -1},
        {"a": "0"},
        {"a": 0, "b": 0},
        {"a": True},
        {"\ud800": 0},
        {"a\nb": 0},
        {},
        [["a", -1.5]],
        None,
    ):
        path.write_text(json.dumps({"model": {"type": "WordPiece", "vocab": vocab}}))
        with pytest.raises(UserError, match=r"tokenizer\.json is not a WordPiece tokenizer.*; give --vocab_file"):
            read_vocabulary(path)
    (folder / "vocab.txt").unlink()
    assert vocabulary_in(folder) == path
