"""BERT's WordPiece tokenizer: the published algorithm, several times as fast as the library beneath it.

A basic tokenizer cleans, lower-cases and splits text; WordPiece, which is the `tokenizers` library's, cuts each word
into the longest pieces of the vocabulary. The library's own basic tokenizer gives other tokens on real text
(docs/design.md). Where Google's and NVIDIA's copies differ, NVIDIA's holds, as in Hugging Face's: all characters of the
categories C* are deleted, not only Cc and Cf, and special tokens that stand alone are not split.

Every whitespace-separated word is tokenized on its own. So each distinct word is tokenized once, and its ids are kept
as bytes ready to be joined: encoding is mostly `str.split` and dictionary look-ups.
"""

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
from common.json_files import read_json
from common.published_models import PUBLISHED_MODELS

VOCAB_NAME = "vocab.txt"
PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)

# Longer words become [UNK]. NVIDIA's and Hugging Face's WordPiece take 100; Google's later revisions 200.
MAX_CHARS_PER_WORD = 100

# Some 90 MB per process when full; later words are not kept.
MAX_CACHED_WORDS = 2**18

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
    """Read a vocabulary, one token per line; the line's number, from 0, is the token's id."""
    path = Path(vocab_file)
    if not path.is_file():
        raise UserError(f"There is no vocabulary file at {path}", "give --vocab_file the path of a BERT vocab.txt")
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"The vocabulary {path} is not UTF-8 text ({error})", "give a BERT vocab.txt") from error
    vocab: dict[str, int] = {}
    for index, line in enumerate(lines):
        token = line.strip()
        # Published vocabularies hold entries that are whitespace only; they match no word but have their ids.
        if not token or token in vocab:
            token = line
        if token in vocab or not token:
            what = f"repeats the token {token!r} of line {vocab[token] + 1}" if token else "is blank"
            raise UserError(f"Line {index + 1} of the vocabulary {path} {what}", "remove it or use another vocabulary")
        vocab[token] = index
    if missing := [token for token in SPECIAL_TOKENS if token not in vocab]:
        raise UserError(
            f"The vocabulary {path} lacks {', '.join(missing)}",
            "use a BERT vocabulary, or make one with data/train_vocab.py",
        )
    return vocab


def is_cased(vocab: Iterable[str]) -> bool:
    """Whether words of the vocabulary have capitals; special tokens and Google's [unused1] do not count."""
    return any(token != token.lower() for token in vocab if token not in SPECIAL_TOKENS and token[:1] != "[")


def check_casing(vocab_file: str | os.PathLike, do_lower_case: bool) -> None:
    """Raises UserError if the vocabulary cannot be read, or has words with capitals, which lower-casing never makes."""
    if is_cased(load_vocab(vocab_file)) and do_lower_case:
        raise UserError(
            f"The vocabulary {vocab_file} is a cased one, and lower-cased text would not find many of its words",
            "set --do_lower_case 0 (DO_LOWER_CASE=0), or give an uncased one",
        )


def split_words(text: str) -> list[str]:
    """Split at whitespace such that tokenizing each word gives what tokenizing the whole text gives."""
    return _CONTROLS_THAT_SPLIT.sub("", text).split()


# Rules for single characters, by their code points, as `str.translate` asks for them.


def _clean(code_point: int) -> str:
    char, category = chr(code_point), unicodedata.category(chr(code_point))
    if char in " \t\n\r" or category == "Zs":
        return " "
    if char in "\0\ufffd" or category.startswith("C"):
        return ""
    is_cjk = any(first <= code_point <= last for first, last in CJK_BLOCKS)
    return f" {char} " if is_cjk else char


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
    """

    def __init__(self, do_lower_case: bool = True) -> None:
        self.do_lower_case = do_lower_case
        self._clean = _Computed(_clean)
        self._split = _Computed(_strip_accent_isolate_punctuation if do_lower_case else _isolate_punctuation)

    def tokenize(self, text: str) -> list[str]:
        """The words of `text`; none is empty or holds whitespace."""
        words = []
        for word in text.translate(self._clean).split():
            if word in SPECIAL_TOKENS:
                words.append(word)
                continue
            if self.do_lower_case:
                word = word.lower()
                if not word.isascii():
                    word = unicodedata.normalize("NFD", word)
            words += word.translate(self._split).split()
        return words


class BertTokenizer:
    """Text to WordPiece tokens and their ids, as BERT's published tokenizer gives them.

    Args:
        vocab_file: one token per line.
        do_lower_case: lower-case and strip accents; must be what the vocabulary was made with.
    """

    def __init__(self, vocab_file: str | os.PathLike, do_lower_case: bool = True) -> None:
        self.vocab = load_vocab(vocab_file)
        self.vocab_size = len(self.vocab)
        self.do_lower_case = do_lower_case
        self.cls_token_id, self.sep_token_id, self.mask_token_id = (self.vocab[token] for token in (CLS, SEP, MASK))
        self.basic_tokenizer = BasicTokenizer(do_lower_case)
        self._tokens = dict(enumerate(self.vocab))
        self._wordpiece = WordPiece(self.vocab, unk_token=UNK, max_input_chars_per_word=MAX_CHARS_PER_WORD)
        # Text -> its token ids as the bytes of an int32 array.
        self._ids_of_basic_token = _Computed(self._encode_basic_token)
        self._ids_of_word = _Computed(self._encode_word)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, cache_dir: str | os.PathLike | None = None, **kwargs
    ) -> "BertTokenizer":
        """The tokenizer of a vocabulary file, of a folder with one, or of a published model that was downloaded.

        `do_lower_case`, unless given, is what the configurations beside the vocabulary say, else what the published
        model's name says, else True. `cache_dir` is where published models lie, see `PublishedModel.downloaded_to`.
        """
        path = Path(name_or_path)
        model = None if path.exists() else PUBLISHED_MODELS.get(os.fspath(name_or_path))
        if model is not None:
            path = model.downloaded_to(cache_dir) / VOCAB_NAME
        elif path.is_dir():
            path /= VOCAB_NAME
        by_name = True if model is None else model.do_lower_case
        kwargs.setdefault("do_lower_case", configured_do_lower_case(path.parent, by_name))
        return cls(path, **kwargs)

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
    vocab_file: str | os.PathLike, do_lower_case: bool | None = None, configured: bool | None = None
) -> BertTokenizer:
    """The tokenizer of a vocabulary that was given, whose own words tell whether text has to be lower-cased.

    Args:
        do_lower_case: what the user says; None: nothing.
        configured: what is written beside the vocabulary; None: nothing.

    Raises UserError where the vocabulary contradicts them.
    """
    cased = is_cased(load_vocab(vocab_file))
    stated = configured if do_lower_case is None else do_lower_case
    # Where nobody lower-cases a vocabulary without capitals it may be of a script that has none.
    if stated == cased and (cased or do_lower_case is False):
        what, remedy = ("a cased", "--no-do_lower_case") if cased else ("an uncased", "--do_lower_case")
        raise UserError(
            f"the vocabulary {vocab_file} is {what} one, and most words would not be found in it with "
            f"do_lower_case {stated}",
            f"give {remedy}",
        )
    return BertTokenizer(vocab_file, do_lower_case=not cased if stated is None else stated)


def configured_do_lower_case(folder: Path, default: bool | None) -> bool | None:
    """What the folder's configurations say of it; `default` where none does."""
    for path in (folder / name for name in ("tokenizer_config.json", "bert_config.json", "config.json")):
        config = read_json(path, "configuration", "repair or remove it") if path.is_file() else {}
        if isinstance(config.get("do_lower_case"), bool):
            return config["do_lower_case"]
    return default
