"""BERT's WordPiece tokenizer: exactly the published algorithm, several times as fast as the library beneath it.

BERT tokenizes in two steps (google-research/bert and NVIDIA's copy, tokenization.py): a basic tokenizer cleans,
lower-cases and splits at whitespace, CJK characters and punctuation; then WordPiece cuts each word greedily into the
longest pieces of the vocabulary.

WordPiece runs in the `tokenizers` library. The basic tokenizer does not, because the library's BertNormalizer gives
other tokens on real text than BERT's own code: it lower-cases character by character (no final sigma), misses a part of
a CJK block, keeps unassigned characters, and carries tables of an old Unicode. Here it is the published rules, on
`str.translate`. Where Google's and NVIDIA's copies differ, NVIDIA's holds, as it does in Hugging Face's: all characters
of the categories C* are deleted, not only Cc and Cf, and special tokens that stand alone are not split.

Speed comes from one property of the algorithm: every whitespace-separated word is tokenized on its own. So each
distinct word is tokenized once and its ids are kept, as bytes ready to be joined; text repeats its words so much that
encoding is mostly `str.split` and dictionary look-ups.
"""

import os
import re
import unicodedata
import warnings
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

# Some 90 MB per process when full. English text reaches its frequent words long before that; later ones are not kept.
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
    """Reads a vocabulary, one token per line; the line's number, from 0, is the token's id.

    Raises UserError if the file cannot be read, holds a token twice, a blank line, or lacks a special token.
    """
    path = Path(vocab_file)
    if not path.is_file():
        raise UserError(f"There is no vocabulary file at {path}", "give --vocab_file the path of a BERT vocab.txt")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"The vocabulary {path} is not UTF-8 text ({error})", "give a BERT vocab.txt") from error
    if lines[-1] == "":
        lines.pop()

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

    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
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
    """Splits at whitespace such that tokenizing each word gives what tokenizing the whole text gives."""
    return _CONTROLS_THAT_SPLIT.sub("", text).split()


def _is_control(char: str) -> bool:
    return char not in "\t\n\r" and unicodedata.category(char).startswith("C")


def _is_whitespace(char: str) -> bool:
    return char in " \t\n\r" or unicodedata.category(char) == "Zs"


def _is_cjk(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in CJK_BLOCKS)


def _is_punctuation(char: str) -> bool:
    """All ASCII that is neither letter, digit, space nor control counts, beside Unicode's punctuation."""
    if char.isascii():
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P")


# Rules for single characters, by their code points, as `str.translate` asks for them.


def _clean(code_point: int) -> str:
    char = chr(code_point)
    if char in "\0\ufffd" or _is_control(char):
        return ""
    if _is_whitespace(char):
        return " "
    return f" {char} " if _is_cjk(char) else char


def _isolate_punctuation(code_point: int) -> str:
    char = chr(code_point)
    return f" {char} " if _is_punctuation(char) else char


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
        """Returns the words of `text`; none is empty or holds whitespace."""
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

    Character categories are those of the running Python's `unicodedata`, as in the published code.

    Args:
        vocab_file: one token per line.
        do_lower_case: lower-case and strip accents; must be what the vocabulary was made with.
        max_len: tokens a model takes at most; `convert_tokens_to_ids` warns about longer sequences.

    Raises:
        UserError: see `load_vocab`.
    """

    def __init__(self, vocab_file: str | os.PathLike, do_lower_case: bool = True, max_len: int | None = 512) -> None:
        self.vocab = load_vocab(vocab_file)
        self.do_lower_case = do_lower_case
        self.max_len = max_len
        self.basic_tokenizer = BasicTokenizer(do_lower_case)
        self._tokens = list(self.vocab)
        self._wordpiece = WordPiece(self.vocab, unk_token=UNK, max_input_chars_per_word=MAX_CHARS_PER_WORD)
        # Text -> its token ids as the bytes of an int32 array.
        self._ids_of_basic_token = _Computed(self._encode_basic_token)
        self._ids_of_word = _Computed(self._encode_word)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, cache_dir: str | os.PathLike | None = None, **kwargs
    ) -> "BertTokenizer":
        """Opens the tokenizer of a vocabulary file, a model folder, or a published model that was downloaded before.

        `do_lower_case`, unless given, is what a tokenizer_config.json, bert_config.json or config.json beside the
        vocabulary says, else what the published model's name says, else True.

        Args:
            name_or_path: a vocab.txt, a folder with one, or a key of common.published_models.PUBLISHED_MODELS.
            cache_dir: where published models lie, a folder each; by default
                $BERT_PREP_WORKING_DIR/download/google_pretrained_weights (the variable's own default is data/).
            **kwargs: passed to the constructor.

        Raises:
            UserError: nothing there, or not a vocabulary.
        """
        name, path = os.fspath(name_or_path), Path(name_or_path)
        model = None if path.exists() else PUBLISHED_MODELS.get(name)
        if model is not None:
            vocab_file = model.downloaded_to(cache_dir) / VOCAB_NAME
            problem = f"The vocabulary of {name} is not at {vocab_file}"
            remedy = f"unpack Google's {model.folder}.zip there, or give the path of its vocab.txt instead of the name"
        else:
            vocab_file = path / VOCAB_NAME if path.is_dir() else path
            problem = f"There is no vocabulary at {vocab_file}"
            remedy = f"give a vocab.txt, a folder that holds one, or one of {', '.join(PUBLISHED_MODELS)}"
        if not vocab_file.is_file():
            raise UserError(problem, remedy)
        by_name = True if model is None else model.do_lower_case
        kwargs.setdefault("do_lower_case", configured_do_lower_case(vocab_file.parent, by_name))
        return cls(vocab_file, **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    @property
    def pad_token_id(self) -> int:
        return self.vocab[PAD]

    @property
    def unk_token_id(self) -> int:
        return self.vocab[UNK]

    @property
    def cls_token_id(self) -> int:
        return self.vocab[CLS]

    @property
    def sep_token_id(self) -> int:
        return self.vocab[SEP]

    @property
    def mask_token_id(self) -> int:
        return self.vocab[MASK]

    def _encode_basic_token(self, token: str) -> bytes:
        if token in SPECIAL_TOKENS:
            return array("i", [self.vocab[token]]).tobytes()
        return array("i", [piece.id for piece in self._wordpiece.tokenize(token)]).tobytes()

    def _encode_word(self, word: str) -> bytes:
        return b"".join(map(self._ids_of_basic_token.__getitem__, self.basic_tokenizer.tokenize(word)))

    def _encode(self, text: str) -> bytes:
        return b"".join(map(self._ids_of_word.__getitem__, split_words(text)))

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenizes many texts, without adding [CLS] or [SEP].

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
        """Returns the WordPiece tokens of `text`."""
        return [self._tokens[index] for index in array("i", self._encode(text))]

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Returns the tokens' ids; warns if they are more than `max_len`. Raises KeyError for an unknown token."""
        ids = [self.vocab[token] for token in tokens]
        if self.max_len is not None and len(ids) > self.max_len:
            warnings.warn(
                f"{len(ids)} tokens are more than the {self.max_len} that the model takes; indexing its position "
                "embeddings with them will fail.",
                stacklevel=2,
            )
        return ids

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """Returns the ids' tokens. Raises IndexError for an id outside 0..vocab_size - 1."""
        tokens = []
        for index in ids:
            if index < 0:
                raise IndexError(f"a token id cannot be negative: {index}")
            tokens.append(self._tokens[index])
        return tokens


def open_tokenizer(
    vocab_file: str | os.PathLike, do_lower_case: bool | None = None, configured: bool | None = None
) -> BertTokenizer:
    """The tokenizer of a vocabulary that was given, whose own words tell whether text has to be lower-cased.

    Args:
        vocab_file: one token per line.
        do_lower_case: what the user says; None: nothing.
        configured: what is written beside the vocabulary; None: nothing.

    Raises:
        UserError: see `load_vocab`; or the vocabulary contradicts what is said.
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
    """What the folder's configurations say of it; `default` where none does.

    Raises UserError if one of them is not JSON.
    """
    for name in ("tokenizer_config.json", "bert_config.json", "config.json"):
        path = folder / name
        if not path.is_file():
            continue
        config = read_json(path, "configuration", "repair or remove it")
        if isinstance(config.get("do_lower_case"), bool):
            return config["do_lower_case"]
    return default
