"""BERT's WordPiece tokenizer: the published algorithm, several times as fast as the library beneath it.

A basic tokenizer cleans, lower-cases and splits text; WordPiece, which is the `tokenizers` library's, cuts each word
into the longest pieces of the vocabulary. The library's own basic tokenizer gives other tokens on real text
(docs/design.md). Where Google's and NVIDIA's copies differ, NVIDIA's holds, as in Hugging Face's: all characters of the
categories C* are deleted, not only Cc and Cf, special tokens that stand alone are not split, and words of more than 100
characters, not 200, are unknown. `as_google` is Google's own, which made MLPerf's evaluation set.

Every whitespace-separated word is tokenized on its own. So each distinct word is tokenized once, and its ids are kept
as bytes ready to be joined: encoding is mostly `str.split` and dictionary look-ups.
"""

import functools
import os
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers.models import WordPiece

from common.errors import UserError
from common.published_models import PUBLISHED_MODELS
from common.tokenizer_files import (
    CLS,
    MASK,
    MAX_CHARS_PER_WORD,
    RULES,
    SEP,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG_NAME,
    TOKENIZER_NAME,
    UNK,
    VOCAB_NAME,
    Stated,
    read_vocabulary,
    stated_rules,
    vocabulary_in,
)

# Some 90 MB per process when full; later words are not kept.
MAX_CACHED_WORDS = 2**18
GOOGLES_MAX_CHARS_PER_WORD = 200

# Of a vocabulary's words with letters: so small a share of odd ones says nothing of all, nor do so few words.
ODD_SHARE, FEW_WORDS = 0.05, 50

CJK_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)

# The control characters that str.split() takes for whitespace and BERT deletes: "a\x0cb" is one word, "ab".
_CONTROLS_THAT_SPLIT = re.compile("[\x0b\x0c\x1c-\x1f\x85]")


def load_vocab(vocab_file: str | os.PathLike) -> dict[str, int]:
    """Read a vocabulary, a vocab.txt or a tokenizer.json: each token's id, in the order of the ids, from 0.

    Of a token that is there several times the last counts, as in transformers. An id without a token of its own has a
    name with a space in it, which is no word.
    """
    tokens: list[str] = []
    last: dict[str, int] = {}
    for index, line in enumerate(read_vocabulary(vocab_file)):
        token = line.strip()
        # Published vocabularies hold entries that are whitespace only; they match no word but have their ids.
        if not token or token in last:
            token = line
        last[token] = index
        tokens.append(token)
    if missing := [token for token in SPECIAL_TOKENS if token not in last]:
        raise UserError(
            f"The vocabulary {vocab_file} lacks {', '.join(missing)}",
            "use a BERT vocabulary, or make one with data/train_vocab.py",
        )
    return {token if last[token] == i else f"{token} (line {i + 1})": i for i, token in enumerate(tokens)}


def split_words(text: str) -> list[str]:
    """Split at whitespace such that tokenizing each word gives what tokenizing the whole text gives."""
    return _CONTROLS_THAT_SPLIT.sub("", text).split()


# Rules for single characters, by their code points, as `str.translate` asks for them.


def _clean(code_point: int, deleted: tuple[str, ...] = ("C",)) -> str:
    """Without the categories whose names begin as one of `deleted`."""
    char, category = chr(code_point), unicodedata.category(chr(code_point))
    if char in " \t\n\r" or category == "Zs":
        return " "
    return "" if char in "\0\ufffd" or category.startswith(deleted) else char


def _clean_isolate_cjk(code_point: int, deleted: tuple[str, ...] = ("C",)) -> str:
    cleaned = _clean(code_point, deleted)
    return f" {cleaned} " if cleaned and any(first <= code_point <= last for first, last in CJK_BLOCKS) else cleaned


def _isolate_punctuation(code_point: int) -> str:
    """All ASCII that is neither letter, digit, space nor control counts, beside Unicode's punctuation."""
    char = chr(code_point)
    if char.isascii():
        is_punctuation = char.isprintable() and not char.isalnum() and char != " "
    else:
        is_punctuation = unicodedata.category(char).startswith("P")
    return f" {char} " if is_punctuation else char


def _strip_accent_isolate_punctuation(code_point: int) -> str:
    return "" if unicodedata.category(chr(code_point)) == "Mn" else _isolate_punctuation(code_point)


class _Computed(dict):
    """A function's values, computed when first asked for; the first `MAX_CACHED_WORDS` are kept."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        super().__init__()
        self.compute = compute

    def __missing__(self, key: Any) -> Any:
        value = self.compute(key)
        if len(self) < MAX_CACHED_WORDS:
            self[key] = value
        return value


class BasicTokenizer:
    """Text to words: cleaned, split at whitespace, CJK and punctuation; lower-cased and without accents if asked.

    A special token such as [MASK] that stands alone, after cleaning, between whitespace or CJK characters is kept whole
    (NVIDIA's `never_split`); one that touches other text is split like any text.

    Args:
        do_lower_case: lower-case.
        strip_accents: remove accents and vowel signs (category Mn); None: as `do_lower_case`.
        tokenize_chinese_chars: each CJK character is a word.
        as_google: no token is kept whole, and of the categories C* only Cc and Cf are deleted.
    """

    def __init__(
        self,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        as_google: bool = False,
    ) -> None:
        self.do_lower_case = do_lower_case
        self.strip_accents = do_lower_case if strip_accents is None else strip_accents
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.never_split = () if as_google else SPECIAL_TOKENS
        clean = _clean_isolate_cjk if tokenize_chinese_chars else _clean
        # Lone surrogates (Cs) are in no UTF-8 text, and WordPiece cannot take them.
        self._clean = _Computed(functools.partial(clean, deleted=("Cc", "Cf", "Cs") if as_google else ("C",)))
        self._split = _Computed(_strip_accent_isolate_punctuation if self.strip_accents else _isolate_punctuation)

    def __str__(self) -> str:
        case = "lower-cases text" if self.do_lower_case else "keeps capitals"
        accents = "strips accents" if self.strip_accents else "keeps accents"
        return f"{case}, {accents}" + ("" if self.tokenize_chinese_chars else ", joins Chinese characters")

    def tokenize(self, text: str) -> list[str]:
        """The words of `text`; none is empty or holds whitespace."""
        words = []
        for word in text.translate(self._clean).split():
            if word in self.never_split:
                words.append(word)
                continue
            if self.do_lower_case:
                word = word.lower()
            if self.strip_accents and not word.isascii():
                word = unicodedata.normalize("NFD", word)
            words += word.translate(self._split).split()
        return words


class BertTokenizer:
    """Text to WordPiece tokens and their ids, as BERT's published tokenizer gives them.

    Args:
        vocab_file: a vocab.txt, one token per line, or a tokenizer.json.
        do_lower_case, strip_accents, tokenize_chinese_chars: see BasicTokenizer; must be what the vocabulary was made
            with, which `open_tokenizer` finds out.
        as_google: see BasicTokenizer; words may have 200 characters in place of 100.
    """

    def __init__(
        self,
        vocab_file: str | os.PathLike,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        as_google: bool = False,
    ) -> None:
        self.vocab_file = vocab_file
        self.vocab = load_vocab(vocab_file)
        self.vocab_size = len(self.vocab)
        self.cls_token_id, self.sep_token_id, self.mask_token_id = (self.vocab[token] for token in (CLS, SEP, MASK))
        self.basic_tokenizer = BasicTokenizer(do_lower_case, strip_accents, tokenize_chinese_chars, as_google)
        self.rules = {rule: getattr(self.basic_tokenizer, rule) for rule in RULES}
        # Those that do not follow from do_lower_case, as transformers takes for granted that they do.
        usual = {"strip_accents": do_lower_case, "tokenize_chinese_chars": True}
        self.unusual_rules = {rule: self.rules[rule] for rule, value in usual.items() if self.rules[rule] != value}
        self.decided_by = "the program"
        self._tokens = dict(enumerate(self.vocab))
        longest = GOOGLES_MAX_CHARS_PER_WORD if as_google else MAX_CHARS_PER_WORD
        self._wordpiece = WordPiece(self.vocab, unk_token=UNK, max_input_chars_per_word=longest)
        # Text -> its token ids as the bytes of an int32 array.
        self._ids_of_basic_token = _Computed(self._encode_basic_token)
        self._ids_of_word = _Computed(self._encode_word)

    def __str__(self) -> str:
        """What it does to text, and who says so."""
        return f"the vocabulary {self.vocab_file}: {self.basic_tokenizer}, according to {self.decided_by}"

    @property
    def do_lower_case(self) -> bool:
        return self.basic_tokenizer.do_lower_case

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        cache_dir: str | os.PathLike | None = None,
        do_lower_case: bool | None = None,
    ) -> "BertTokenizer":
        """`open_tokenizer` of a vocabulary file, of a folder with one, or of a published model that was downloaded.

        `cache_dir` is where published models lie, see `PublishedModel.downloaded_to`.
        """
        path = Path(name_or_path)
        model = None if path.exists() else PUBLISHED_MODELS.get(os.fspath(name_or_path))
        if model is not None:
            path = model.downloaded_to(cache_dir)
        if model is not None or path.is_dir():
            path = vocabulary_in(path) or path / VOCAB_NAME
        return open_tokenizer(path, do_lower_case)

    def _encode_basic_token(self, token: str) -> bytes:
        if token in SPECIAL_TOKENS:
            return array("i", [self.vocab[token]]).tobytes()
        return array("i", [piece.id for piece in self._wordpiece.tokenize(token)]).tobytes()

    def _encode_word(self, word: str) -> bytes:
        return b"".join(map(self._ids_of_basic_token.__getitem__, self.basic_tokenizer.tokenize(word)))

    def _encode(self, text: str) -> bytes:
        return b"".join(map(self._ids_of_word.__getitem__, split_words(text)))

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize many texts, without adding [CLS] or [SEP].

        Returns:
            ids, int32: the token ids of all texts, one after the other;
            offsets, int64 (len(texts) + 1,): text i's ids are ids[offsets[i]:offsets[i + 1]].
        """
        encoded = [self._encode(text) for text in texts]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(ids) // 4 for ids in encoded], out=offsets[1:])
        # A bytearray, because numpy makes an array over immutable bytes read-only.
        return np.frombuffer(bytearray().join(encoded), dtype=np.int32), offsets

    def tokenize(self, text: str) -> list[str]:
        """The WordPiece tokens of `text`."""
        return self.convert_ids_to_tokens(array("i", self._encode(text)))

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """The tokens' ids. Raises KeyError for an unknown token."""
        return [self.vocab[token] for token in tokens]

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The ids' tokens. Raises KeyError for an id outside of the vocabulary."""
        return [self._tokens[index] for index in ids]


def open_tokenizer(
    vocab_file: str | os.PathLike,
    do_lower_case: bool | None = None,
    model_folder: Path | None = None,
    flags: tuple[str, str] = ("--no-do_lower_case", "--do_lower_case"),
) -> BertTokenizer:
    """The tokenizer of a vocabulary: every entry opens it here.

    What the user says counts, then what the files beside the vocabulary say, then those of the model, then the name
    that Google gave to the folder, then the vocabulary's own words.

    Args:
        do_lower_case: what the user says; None: nothing.
        model_folder: where the weights are.
        flags: how the user says False and True.

    Raises UserError where they contradict each other, or ask for another tokenizer than BERT's.
    """
    folder, letters = Path(vocab_file).parent, _Letters(load_vocab(vocab_file))
    _check_same_vocabulary(Path(vocab_file))
    of_model, beside = stated_rules(model_folder) if model_folder else {}, stated_rules(folder)
    for rule in of_model.keys() & beside.keys():
        one, other = of_model[rule], beside[rule]
        if one.value != other.value and (rule != "do_lower_case" or do_lower_case is None):
            what = f"{one.where} says {rule} {one.value}, and {other.where} says {other.value}"
            raise UserError(what, "give --vocab_file the model's own vocabulary, or correct the wrong file")
    by_files = of_model | beside
    stated = {"do_lower_case": Stated(not letters.are_cased, "the capitals in its words")} | by_files
    if do_lower_case is not None:
        stated["do_lower_case"] = Stated(do_lower_case, flags[do_lower_case])
    tokenizer = BertTokenizer(vocab_file, **{rule: found.value for rule, found in stated.items()})
    tokenizer.decided_by = ", ".join(dict.fromkeys(found.where for found in stated.values()))
    lower_cases, what = tokenizer.do_lower_case, f"the vocabulary {vocab_file}"
    if letters.are_cased if lower_cases else do_lower_case is False and letters.are_lower_cased:
        kind = "a cased" if lower_cases else "an uncased"
        what += f" is {kind} one, and most words would not be found in it with do_lower_case {lower_cases}"
        raise UserError(what, f"give {flags[not lower_cases]}")
    is_written = by_files.keys() & {"do_lower_case", "strip_accents"}
    if tokenizer.rules["strip_accents"] and letters.have_marks and not is_written:
        raise UserError(
            f"{what} has words with accents or vowel signs, which do_lower_case True would strip",
            f'give {flags[False]}; or, if the vocabulary is lower-cased with its accents, put {{"do_lower_case": true, '
            f'"strip_accents": false}} into {folder / TOKENIZER_CONFIG_NAME}',
        )
    return tokenizer


class _Letters:
    """What a vocabulary's words tell of the text that it was made of; a few odd ones tell nothing."""

    def __init__(self, vocab: Iterable[str]) -> None:
        words = [token.removeprefix("##") for token in vocab if token[:1] not in ("[", "<")]
        words = [word for word in words if any(unicodedata.category(char)[0] in "LM" for char in word)]
        n_of_two_cases = sum(word.lower() != word.upper() for word in words)
        n_with_capitals = sum(word != word.lower() for word in words)
        n_with_marks = sum(word != _without_marks(word) for word in words)
        self.are_cased = n_with_capitals > ODD_SHARE * n_of_two_cases
        self.have_marks = n_with_marks > ODD_SHARE * (n_of_two_cases + n_with_marks)
        is_plain = not (self.are_cased or self.have_marks)  # scripts without capitals prove nothing
        self.are_lower_cased = is_plain and n_of_two_cases > max(FEW_WORDS, 0.9 * len(words))


def _without_marks(word: str) -> str:
    decomposed = word if word.isascii() else unicodedata.normalize("NFD", word)
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")


def _check_same_vocabulary(vocab_file: Path) -> None:
    other = vocab_file.with_name(TOKENIZER_NAME)
    if vocab_file.name != VOCAB_NAME or not other.is_file():
        return
    differing = load_vocab(vocab_file).items() ^ load_vocab(other).items()
    if tokens := [token for token, _ in differing if token.split() == [token]]:
        raise UserError(
            f"{vocab_file} and {other} hold different vocabularies ({min(tokens)!r})",
            "remove the one that the model was not trained with",
        )
