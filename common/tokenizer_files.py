"""What the files beside a model say of its tokens: a vocabulary, and settings that are obeyed or refused by name.

transformers writes them, of many tokenizers, and of BERT's in several forms: `tokenizer_config.json` has its settings,
`tokenizer.json` the same once more with the vocabulary. A setting that was ignored would feed a model tokens that it
never saw, without a word.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common.errors import Problem, Problems, UserError
from common.json_files import read_json
from common.published_models import PUBLISHED_MODELS
from common.text_files import read_text

VOCAB_NAME, TOKENIZER_NAME, TOKENIZER_CONFIG_NAME = "vocab.txt", "tokenizer.json", "tokenizer_config.json"
PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)
# Longer words become [UNK]. NVIDIA's and Hugging Face's WordPiece take 100; Google's later revisions 200.
MAX_CHARS_PER_WORD = 100

RULES = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
# Classes that tokenize as BertTokenizer does, and those that are nothing but their tokenizer.json.
CLASSES = r"((Bert|DistilBert|Electra|MobileBert)Tokenizer(Fast|Legacy)?)"
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# What else shapes tokens, and the one value that is computed here.
EXPECTED = MappingProxyType(
    {
        "tokenizer_class": rf"{CLASSES}|{'|'.join(GENERIC_CLASSES)}",
        **{f"{token[1:-1].lower()}_token": re.escape(token) for token in SPECIAL_TOKENS},
        **dict.fromkeys(("do_basic_tokenize", "do_word_tokenize", "do_subword_tokenize", "clean_text"), "True"),
        "split_special_tokens": "False",
        "word_tokenizer_type": "basic",
        "subword_tokenizer_type": "wordpiece",
        "wordpieces_prefix": "##",
        "max_input_chars_per_word": str(MAX_CHARS_PER_WORD),
        "auto_map": "None",
        "model": "WordPiece",
        "normalizer": "BertNormalizer",
        "pre_tokenizer": "BertPreTokenizer",
    }
)
ADDED = (
    "added_tokens",
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "model_specific_special_tokens",
    "never_split",
)


@dataclasses.dataclass(frozen=True)
class Stated:
    """A value, and who says so: a file or a folder's name."""

    value: bool
    where: str


def vocabulary_in(folder: Path) -> Path | None:
    """A model's vocab.txt, or its tokenizer.json, which is all that transformers 5 writes; None without either."""
    return next((folder / name for name in (VOCAB_NAME, TOKENIZER_NAME) if (folder / name).is_file()), None)


def read_vocabulary(vocab_file: str | os.PathLike) -> list[str]:
    """The tokens of a vocab.txt or a tokenizer.json, by their ids; "" where an id has none.

    Raises UserError where it is neither.
    """
    path, remedy = Path(vocab_file), "give --vocab_file the path of a BERT vocab.txt"
    if not path.is_file():
        raise UserError(f"There is no vocabulary file at {path}", remedy)
    if path.suffix != ".json":
        # A blank line inside is an id that no text has; at the end it is nobody's.
        return read_text(path, "vocabulary", remedy).rstrip("\n").split("\n")
    model = read_json(path, "tokenizer", remedy).get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = set(vocab.values()) if isinstance(vocab, dict) and all(type(i) is int for i in vocab.values()) else ()
    is_text = not re.search("[\n\ud800-\udfff]", "".join(vocab)) if ids else False
    if not is_text or min(ids) < 0 or max(ids) >= 2 * len(vocab) or len(ids) < len(vocab):
        raise UserError(f"{path} is not a WordPiece tokenizer, as BERT's are", remedy)
    tokens = [""] * (max(ids) + 1)
    for token, index in vocab.items():
        tokens[index] = token
    return tokens


def stated_rules(folder: Path) -> dict[str, Stated]:
    """What the files in a folder, or else its name, if Google gave it, say of RULES.

    Raises UserError, with everything at once, where they ask for another tokenizer than BERT's, or cannot be read.
    """
    names = ("config.json", "bert_config.json", "special_tokens_map.json", "added_tokens.json")
    files, problems = {}, Problems()
    for name in (*names, TOKENIZER_NAME, TOKENIZER_CONFIG_NAME):
        if (folder / name).is_file():
            with problems.collect():
                values = read_json(folder / name, "configuration", "repair or remove it")
                files[name] = _flat(name, values)
                problems.extend([*_problems(folder / name, files[name])])
    problems.raise_if_any()
    if files.get(TOKENIZER_CONFIG_NAME, {}).get("tokenizer_class") in GENERIC_CLASSES and TOKENIZER_NAME in files:
        files[TOKENIZER_NAME] = files.pop(TOKENIZER_NAME)  # the last one counts
    google = {model.folder: model.do_lower_case for model in PUBLISHED_MODELS.values()}.get(folder.name)
    stated = {} if google is None else {"do_lower_case": Stated(google, f"the name of the folder {folder}")}
    for name, values in files.items():
        found = {rule: values[rule] for rule in RULES if values.get(rule) is not None}
        stated |= {rule: Stated(value, str(folder / name)) for rule, value in found.items()}
    return stated


def _flat(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """A file's values under the names of tokenizer_config.json."""
    if name == "added_tokens.json":
        return {"added_tokens": list(values)}
    if name in ("config.json", "bert_config.json"):  # as other programs call their files too
        return {key: values.get(key) for key in ("tokenizer_class", "do_lower_case")}
    if name != TOKENIZER_NAME:
        return {key: _content(value) if key.endswith("_token") else value for key, value in values.items()}
    parts = ("model", "normalizer", "pre_tokenizer")
    model, normalizer, _ = found = [part if isinstance(part := values.get(key), dict) else {} for key in parts]
    unnamed = ("WordPiece", "none", "none")  # old files do not name the model
    return {
        **{key: part.get("type", kind) for key, part, kind in zip(parts, found, unnamed, strict=True)},
        "unk_token": model.get("unk_token"),
        "wordpieces_prefix": model.get("continuing_subword_prefix"),
        "max_input_chars_per_word": model.get("max_input_chars_per_word"),
        "clean_text": normalizer.get("clean_text"),
        "do_lower_case": normalizer.get("lowercase"),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars"),
        "added_tokens": values.get("added_tokens"),
    }


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _problems(file: Path, values: Mapping[str, Any]) -> Iterator[Problem]:
    for rule in RULES:
        if not isinstance(values.get(rule), bool | None):
            yield Problem(f"{file}: {rule} is {values[rule]!r}", "write true or false")
    for key, pattern in EXPECTED.items():
        if values.get(key) is not None and not re.fullmatch(pattern, str(values[key])):
            yield Problem(
                f"{file}: {key} is {values[key]!r}, and only BERT's published tokenizer can be used here",
                "give a model with that one",
            )
    for key in ADDED:
        added = values.get(key) or []
        added = added.values() if isinstance(added, dict) else added if isinstance(added, list) else [added]
        if others := [token for token in map(_content, added) if token not in SPECIAL_TOKENS]:
            yield Problem(
                f"{file}: {key} has {', '.join(map(repr, others[:3]))}, and no added token is kept whole here",
                "give --vocab_file a copy of the vocabulary in another folder if no text holds them, or another model",
            )
