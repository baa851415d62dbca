"""Folders as Hugging Face's transformers reads and writes them.

Such a folder is how a model gets back to the tools that people have: `AutoModel.from_pretrained(folder)` needs nothing
but config.json and model.safetensors, and `AutoTokenizer` vocab.txt and tokenizer_config.json. What it holds is decided
by the weights alone: a question-answering head makes it a BertForQuestionAnswering, and so on, with exactly the weights
that transformers' class of that name has, so that it reports none missing and none unexpected.

Everything is written to a folder beside the target and renamed, so that no half folder is ever there.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from common.errors import Problems, UserError
from common.json_files import read_json
from file_utils import atomic_folder, atomic_write
from kernels.layers import LAYER_NORM_EPS
from modeling import BertForMaskedLM, BertForPreTraining, BertForQuestionAnswering, BertModel
from models.config import BertConfig
from tokenization import CLS, MASK, PAD, SEP, UNK, VOCAB_NAME, load_vocab

CONFIG_NAME, TOKENIZER_CONFIG_NAME, TOKENIZER_NAME = "config.json", "tokenizer_config.json", "tokenizer.json"
WEIGHTS_NAME, INDEX_NAME = "model.safetensors", "model.safetensors.index.json"
OLD_WEIGHTS_NAME, OLD_INDEX_NAME = "pytorch_model.bin", "pytorch_model.bin.index.json"
WRITTEN_NAMES = (CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_CONFIG_NAME, VOCAB_NAME)

# Rows of the vocabulary that only fill it up, for the hardware's sake, are fewer than this.
MAX_VOCABULARY_PADDING = 128

EMBEDDINGS, MASKED_LM_BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
DECODER = "cls.predictions.decoder.weight"  # the embeddings once more

# transformers' class and ours have one name and the same weights; this weight tells the class from those below.
ARCHITECTURES = MappingProxyType(
    {
        "qa_outputs.weight": BertForQuestionAnswering,
        "cls.seq_relationship.weight": BertForPreTraining,
        MASKED_LM_BIAS: BertForMaskedLM,
        EMBEDDINGS: BertModel,
    }
)


def read_config(path: str | os.PathLike) -> BertConfig:
    """A model's shape from a config.json of Hugging Face's or a bert_config.json of Google's.

    Their many other keys are ignored, but for those that would make it another model than the one here.

    Raises:
        UserError: it cannot be read, or says something that no model here can be; everything at once.
    """
    return config_from(read_json(path, "model configuration", "correct it, or get it again"), str(path))


def config_from(values: Mapping[str, Any], where: str) -> BertConfig:
    """`read_config` of what has been read already; `where` is what the sentences call it."""
    problems = Problems()
    expected = {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False}
    for key, value in expected.items():
        found = values.get(key, value)
        problems.check(found == value, f"{where}: {key} is {found!r}", f"only BERT, with {value!r}, can be read")
    epsilon = values.get("layer_norm_eps", LAYER_NORM_EPS)
    problems.check(
        epsilon == LAYER_NORM_EPS,
        f"{where}: layer_norm_eps is {epsilon!r}",
        f"BERT's, the only one here, is {LAYER_NORM_EPS}",
    )
    with problems.collect():
        config = BertConfig.from_values(values, where)
    problems.raise_if_any()
    return config


def read_safetensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """All tensors of a .safetensors file, in pages of the file.

    Raises UserError where the file is missing, damaged or of another kind.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is missing, damaged or no safetensors file ({error})", "get it again") from error


def shard_files(index: str | os.PathLike) -> dict[Path, set[str]]:
    """The files that an index of a sharded model names, each with the names of the weights in it.

    Raises UserError where the index is no such index, or names files outside its folder or that are missing.
    """
    index, shards = Path(index), {}
    weight_map = read_json(index, "index of a model", "get the model again").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no weight_map", "get the model again")
    problems = Problems()
    for name, file in weight_map.items():
        shards.setdefault(str(file), set()).add(name)
    for file in shards:
        is_plain = Path(file).name == file
        problems.check(is_plain, f"{index} names the file {file!r}, which is not beside it", "get the model again")
        if is_plain:
            problems.check((index.parent / file).is_file(), f"{index.parent / file} is missing", "get the model again")
    problems.raise_if_any()
    return {index.parent / file: names for file, names in shards.items()}


def extract_vocabulary(tokenizer_file: str | os.PathLike, vocab_file: str | os.PathLike) -> None:
    """Write the vocab.txt of a tokenizer.json, which is all that transformers 5 writes of a tokenizer.

    Raises UserError where it is not a WordPiece tokenizer, or its ids are not 0, 1, 2 and so on.
    """
    model = read_json(tokenizer_file, "tokenizer", "give --vocab_file a vocab.txt").get("model")
    vocab = model.get("vocab") if isinstance(model, dict) and model.get("type") == "WordPiece" else None
    if not isinstance(vocab, dict) or sorted(vocab.values()) != list(range(len(vocab))):
        raise UserError(
            f"{tokenizer_file} is not a WordPiece tokenizer, as BERT's are", "give --vocab_file a vocab.txt"
        )
    with atomic_write(vocab_file) as file:
        file.writelines(f"{token}\n" for token in sorted(vocab, key=vocab.__getitem__))


def trim_vocabulary(weights: Mapping[str, Tensor], vocab_size: int, where: str) -> dict[str, Tensor]:
    """The same weights (views), without the rows that fill up the vocabulary.

    Raises UserError where there are fewer rows than tokens, or so many more that it is another vocabulary.
    """
    trimmed = dict(weights)
    for name in (EMBEDDINGS, MASKED_LM_BIAS):
        if name not in weights:
            continue
        rows = weights[name].shape[0]
        if not 0 <= rows - vocab_size < MAX_VOCABULARY_PADDING:
            raise UserError(
                f"{where}: {name} has {rows} rows, and the vocabulary {vocab_size} tokens",
                "give the vocabulary and the configuration that the model was trained with",
            )
        trimmed[name] = weights[name][:vocab_size]
    return trimmed


def write_hugging_face(
    folder: str | os.PathLike,
    weights: Mapping[str, Tensor],
    config: BertConfig,
    vocab_file: str | os.PathLike | None = None,
    do_lower_case: bool | None = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write a folder that transformers loads: the model, and with a vocabulary its tokenizer.

    Args:
        folder: made, whole, by a rename.
        weights: under the published names, as `state_dict()` gives them; written in fp32.
        config: its vocab_size gives way to the vocabulary's, where one is given.
        vocab_file: a vocab.txt; None writes no tokenizer.
        do_lower_case: must be given with a vocabulary.
        overwrite: replace a folder that is there, if it holds such a model and nothing else.

    Returns:
        The names of weights that the architecture has no place for and that were left out.

    Raises:
        UserError: the folder is in the way, or weights, configuration and vocabulary do not fit together.
    """
    folder = Path(folder)
    check_writable(folder, overwrite)
    vocab = None
    if vocab_file is not None:
        if do_lower_case is None:
            raise UserError(
                f"Whether the vocabulary {vocab_file} is lower-cased is written nowhere beside it",
                "say --do_lower_case or --no-do_lower_case",
            )
        vocab = load_vocab(vocab_file)
        config = dataclasses.replace(config, vocab_size=len(vocab))
    architecture, kept = of_architecture(weights, config, str(vocab_file or folder))
    # A model without a head has no `bert` to name; the decoder is not written, as transformers ties it by itself.
    own_prefix = "bert." if architecture == "BertModel" else ""
    with atomic_folder(folder) as new:
        _write_json(new / CONFIG_NAME, _config_values(config, architecture, vocab))
        try:
            named = {name.removeprefix(own_prefix): weight for name, weight in kept.items()}
            save_file(named, new / WEIGHTS_NAME, metadata={"format": "pt"})
            # The library lets only its owner read what it writes; the umask has decided for the file beside it.
            (new / WEIGHTS_NAME).chmod((new / CONFIG_NAME).stat().st_mode & 0o777)
        except safetensors.SafetensorError as error:
            raise UserError(f"{folder / WEIGHTS_NAME} cannot be written ({error}); is the disk full?") from error
        if vocab_file is not None:
            shutil.copyfile(vocab_file, new / VOCAB_NAME)
            _write_json(new / TOKENIZER_CONFIG_NAME, _tokenizer_values(config, do_lower_case))
    return tuple(name for name in weights if name not in kept and name != DECODER)


def is_tied(weights: Mapping[str, Tensor]) -> bool:
    """Whether the masked-LM head multiplies with the word embeddings, and not with other weights."""
    one, other = weights.get(DECODER, weights[EMBEDDINGS]), weights[EMBEDDINGS]
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)


def check_tied(weights: Mapping[str, Tensor], where: str) -> None:
    """Raises UserError where weights are not tied and so do not fit a model here."""
    if not is_tied(weights):
        raise UserError(
            f"{where}: {DECODER} differs from {EMBEDDINGS}",
            "here the two are one, as in the published BERT, so this masked-LM head cannot be used",
        )


def of_architecture(weights: Mapping[str, Tensor], config: BertConfig, where: str) -> tuple[str, dict[str, Tensor]]:
    """The name of the class that these weights are of, and its weights among them, without vocabulary padding, in fp32.

    Raises:
        UserError: some are missing or not of the configuration's shape.
    """
    build = next(build for telling, build in ARCHITECTURES.items() if telling in weights)
    pooler = {"add_pooler": "bert.pooler.dense.weight" in weights} if build is BertModel else {}
    prefix = "bert." if build is BertModel else ""
    with torch.device("meta"):
        shapes = {prefix + name: tuple(tensor.shape) for name, tensor in build(config, **pooler).state_dict().items()}
    if shapes.pop(DECODER, None):
        check_tied(weights, where)
    weights = trim_vocabulary(weights, config.vocab_size, where)
    problems = Problems()
    for name, shape in shapes.items():
        found = tuple(weights[name].shape) if name in weights else "missing"
        problems.check(
            found == shape,
            f"{where}: {name} is {found}, and a {build.__name__} of this configuration has one of {shape}",
            "give the configuration that the weights are of",
        )
    problems.raise_if_any()
    return build.__name__, {name: weights[name].detach().cpu().float().contiguous() for name in shapes}


def check_writable(folder: str | os.PathLike, overwrite: bool) -> None:
    """Raises UserError where a folder is in the way of one that is to be written."""
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} exists and is not a folder", "choose another one to write to")
    names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if name not in WRITTEN_NAMES]
    if names and not overwrite:
        raise UserError(f"The folder {folder} is not empty", "choose another one, or replace it with --overwrite")
    if others:
        raise UserError(
            f"The folder {folder} holds more than a model ({', '.join(others[:3])}), which --overwrite would remove",
            "choose another one, or empty it",
        )


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _config_values(config: BertConfig, architecture: str, vocab: Mapping[str, int] | None) -> dict[str, Any]:
    fixed = {"architectures": [architecture], "model_type": "bert", "layer_norm_eps": LAYER_NORM_EPS}
    padding = {} if vocab is None else {"pad_token_id": vocab[PAD]}
    return fixed | padding | dataclasses.asdict(config)


def _tokenizer_values(config: BertConfig, do_lower_case: bool) -> dict[str, Any]:
    return {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": do_lower_case,
        "model_max_length": config.max_position_embeddings,
        "pad_token": PAD,
        "unk_token": UNK,
        "cls_token": CLS,
        "sep_token": SEP,
        "mask_token": MASK,
    }
