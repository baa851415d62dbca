"""Anybody's BERT: our checkpoints, NVIDIA's, Hugging Face's, Google's.

All become tensors under the published names (modeling.py), with what is known of the model's shape and vocabulary. A
model of which half was loaded in silence trains, and is found out weeks later; so what is missing, left over or of
another shape is refused, but for heads of tasks. No code in a file is run: a pickle with more than tensors and
primitives in it is refused. Files are mapped, so that a weight is copied once, into the model.
"""

import dataclasses
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from common.checkpoint_files import find_checkpoints, read_plain
from common.errors import Problems, UserError
from common.json_files import read_json
from common.published_models import PUBLISHED_MODELS
from common.tokenizer_files import vocabulary_in
from modeling import BertModel
from models.config import BERT_CONFIGS, BertConfig
from pretrained.names import EMBEDDINGS, MASKED_LM_BIAS, WHAT_CAN_BE_READ, equal, few, published_weights
from pretrained.tensorflow import read_google_weights
from tokenization import load_vocab

CONFIG_NAME, GOOGLE_CONFIG_NAME = "config.json", "bert_config.json"
WEIGHTS_NAME = "model.safetensors"
# What a folder is searched for, the best first: published ones often have the same weights several times.
WEIGHTS_NAMES = (
    WEIGHTS_NAME,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "bert_model.ckpt.index",
)
DECODER = "cls.predictions.decoder.weight"  # the embeddings once more
# Rows of the vocabulary that only fill it up, for the hardware's sake, are fewer than this.
MAX_VOCABULARY_PADDING = 128
# What a task adds to the encoder.
HEADS = ("bert.pooler.", "cls.predictions.", "cls.seq_relationship.", "qa_outputs.", "classifier.")
# The sizes of a configuration that weights tell: field, weight, dimension.
SIZES = (
    ("vocab_size", EMBEDDINGS, 0),
    ("hidden_size", EMBEDDINGS, 1),
    ("max_position_embeddings", "bert.embeddings.position_embeddings.weight", 0),
    ("type_vocab_size", "bert.embeddings.token_type_embeddings.weight", 0),
    ("intermediate_size", "bert.encoder.layer.0.intermediate.dense.bias", 0),
)
# Files of trainers that hold no weights of a model.
NO_MODEL = re.compile(
    r"(^|[._-])(optim|optimizer|scheduler|scaler|random_states|rng_state|training_args)([._-]|\d|$)|optim_states"
)
SUFFIXES = (".index", ".pt", ".pth", ".ckpt", ".bin", ".safetensors")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What was read of a model."""

    path: Path
    weights: Mapping[str, Tensor]
    """Under the published names, on the CPU and mapped where the file allows it."""
    config: BertConfig | None
    """The model's shape, where it is written in the file or beside it."""
    vocab_file: Path | None
    """The vocab.txt or tokenizer.json beside it."""
    remark: str = ""
    """Where in the file the weights were, " from 'state_dict' without the prefix 'model.'"; or nothing."""

    def known_config(self) -> BertConfig:
        """The configuration. Raises UserError where there is none."""
        if self.config is None:
            raise UserError(
                f"{self.path} does not say its model's configuration, which weights tell only in part",
                "give --config_file the bert_config.json that it was trained with",
            )
        return self.config


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a model takes of a file's weights."""

    path: Path
    weights: dict[str, Tensor]
    """By the model's names, for its `load_state_dict(weights, strict=False)`."""
    new: list[str]
    """The model's that the file does not have in this shape: they keep their initial values."""
    unused: list[str]
    """The file's that the model has no place for."""
    remark: str = ""
    """Where the weights were, and what was left out of one."""

    def __str__(self) -> str:
        new = f"\n  randomly initialized, as the file has none of their shape: {few(self.new)}" if self.new else ""
        unused = f"\n  in the file and not used: {few(self.unused)}" if self.unused else ""
        return f"{self.path}: {len(self.weights)} weights loaded{self.remark}{new}{unused}"


def read_pretrained(path: str | Path) -> Pretrained:
    """Read a model: our checkpoint, NVIDIA's, a Hugging Face or Google folder, a file of theirs, or a published name.

    Args:
        path: a folder, a .pt, .bin or .safetensors file, an index of a sharded model, a TensorFlow checkpoint's prefix
            or any of its files, or a key of common.published_models.PUBLISHED_MODELS that was downloaded.

    Raises:
        UserError: nothing there; damaged; not a BERT; the file could run code.
    """
    file = _locate(path)
    contents = _read(file)
    weights, remark = published_weights(contents, file)
    return Pretrained(
        path=file,
        weights=weights,
        config=_configuration(contents, file),
        vocab_file=vocabulary_in(file.parent),
        remark=remark,
    )


def fit(
    pretrained: Pretrained, model_class: type[nn.Module], config: BertConfig, heads_may_be_new: bool = False
) -> Fitted:
    """The weights that a model of this class and shape takes.

    Rows of the embeddings that no token has are left out: what fills the vocabulary up for the hardware's sake, and
    what is more than the configuration says where the vocabulary beside the weights has no more tokens either.

    Args:
        heads_may_be_new: the file need not have the weights of a head, or have all of them in another shape.

    Raises:
        UserError: other weights are missing, of another shape, or left over in the encoder.
    """
    prefix = "bert." if model_class is BertModel else ""
    with torch.device("meta"):
        shapes = {prefix + name: tuple(tensor.shape) for name, tensor in model_class(config).state_dict().items()}
    weights, problems = dict(pretrained.weights), Problems()
    if DECODER in weights and equal(weights[DECODER], weights[EMBEDDINGS]):
        del weights[DECODER]
    problems.check(
        shapes.pop(DECODER, None) is None or DECODER not in weights,
        f"{pretrained.path}: {DECODER} differs from {EMBEDDINGS}",
        "here the two are one, as in the published BERT, so this masked-LM head cannot be used",
    )
    n_spare = _n_spare_rows(pretrained, config)
    for name in (EMBEDDINGS, MASKED_LM_BIAS) if n_spare else ():
        if name in weights:
            weights[name] = weights[name][: config.vocab_size]
    found = {name: tuple(weights[name].shape) if name in weights else "missing" for name in shapes}
    new = [name for name, shape in shapes.items() if found[name] != shape]
    heads = {head: [name for name in shapes if name.startswith(head)] for head in HEADS}
    new_heads = tuple(head for head, names in heads.items() if names and set(names) <= set(new))
    if not heads_may_be_new:
        new_heads = tuple(head for head in new_heads if not any(name.startswith(head) for name in weights))
    problems.check(
        heads_may_be_new or not new_heads,
        f"{pretrained.path} has no weights of the names {few([head + '*' for head in new_heads])}, which a "
        f"{model_class.__name__} has",
        "give a model that was trained with them",
    )
    wrong = [f"{name} {shapes[name]} is {found[name]}" for name in new if not name.startswith(new_heads)]
    unused = [name for name in weights if name not in shapes]
    excess = [name for name in unused if name.startswith("bert.") and not name.startswith(HEADS)]
    left = [f"{name} {tuple(weights[name].shape)}" for name in excess]
    cause, remedy = _difference(weights, config)
    for what, names in (("does not hold the weights", wrong), ("holds more than the weights", left)):
        of = f"of a {model_class.__name__} of this configuration"
        problems.check(not names, f"{pretrained.path} {what} {of}: {few(names)}{cause}", remedy)
    problems.raise_if_any()
    kept = {name.removeprefix(prefix): weights[name] for name in shapes if name not in new}
    rows = f", but for the last {n_spare:,} rows of the embeddings, which no token has" if n_spare else ""
    return Fitted(pretrained.path, kept, new, unused, pretrained.remark + rows)


def _n_spare_rows(pretrained: Pretrained, config: BertConfig) -> int:
    """How many rows of the embeddings, the last, a model of this configuration leaves out."""
    n_more = len(pretrained.weights[EMBEDDINGS]) - config.vocab_size
    if n_more >= MAX_VOCABULARY_PADDING:
        has_more_tokens = not pretrained.vocab_file or len(load_vocab(pretrained.vocab_file)) > config.vocab_size
        return 0 if has_more_tokens else n_more
    return max(0, n_more)


def _difference(weights: Mapping[str, Tensor], config: BertConfig) -> tuple[str, str]:
    """In which sizes weights differ from a configuration, ", as its hidden_size is 768, not 1024"; and the remedy."""
    sizes = {field: weights[name].shape[dim] for field, name, dim in SIZES if name in weights}
    layers = (re.match(r"bert\.encoder\.layer\.(\d+)\.", name) for name in weights)
    sizes["num_hidden_layers"] = len({layer[1] for layer in layers if layer})
    if 0 <= sizes.get("vocab_size", 0) - config.vocab_size < MAX_VOCABULARY_PADDING:
        sizes["vocab_size"] = config.vocab_size
    differing = {field: size for field, size in sizes.items() if size != getattr(config, field)}
    said = [f"{field} is {size}, not {getattr(config, field)}" for field, size in differing.items()]
    remedy = "give the configuration and the vocabulary that it was trained with"
    for name in ("tiny", "base", "large") if differing else ():
        shipped = dataclasses.asdict(BertConfig.from_json_file(BERT_CONFIGS[name]))
        if sizes.items() <= shipped.items():
            remedy = f"give --config_file bert_configs/{name}.json"
    return f" (its {', its '.join(said)})" if said else "", remedy


def _locate(path: str | Path) -> Path:
    """The file that tells how a model is read: of a TensorFlow checkpoint its index."""
    name, path = str(path), Path(path)
    if name in PUBLISHED_MODELS and not path.exists():
        path = PUBLISHED_MODELS[name].downloaded_to()
        if not path.is_dir():
            raise UserError(
                f"The weights of {name} are not at {path}",
                f"unpack Google's {path.name}.zip there, or give the path of a model instead of the name",
            )
    if path.is_dir():
        return _best_in(path)
    prefix = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", str(path))
    if prefix != str(path) or Path(prefix + ".index").is_file():
        return Path(prefix + ".index")
    if not path.is_file():
        raise UserError(f"There is no model {path}", WHAT_CAN_BE_READ)
    return path


def _best_in(folder: Path) -> Path:
    named = [folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()]
    if named:
        return named[0]
    if checkpoints := find_checkpoints(folder):
        return checkpoints[-1][1]
    if others := _models_in(folder):
        if len(others) > 1:
            names = few([path.name for path in others])
            raise UserError(f"The folder {folder} holds several models ({names})", "give the path of one of them")
        return others[0]
    if any(folder.glob("*.distcp")):
        names = shlex.join([str(folder), f"{folder.absolute()}.pt"])
        raise UserError(
            f"The folder {folder} holds the shards of torch.distributed.checkpoint",
            f"python3 -m torch.distributed.checkpoint.format_utils dcp_to_torch {names} merges them",
        )
    inner = sorted(str(path) for path in folder.iterdir() if path.is_dir() and _models_in(path))
    remedy = f"give a folder in it that does ({few(inner)})" if inner else WHAT_CAN_BE_READ
    raise UserError(f"The folder {folder} holds no weights that can be read", remedy)


def _models_in(folder: Path) -> list[Path]:
    """Files that may be a model; none in a folder that cannot be listed."""
    names = sorted(os.listdir(folder)) if os.access(folder, os.R_OK | os.X_OK) else []
    files = [folder / name for name in names if Path(name).suffix in SUFFIXES and not NO_MODEL.search(name)]
    files = [path for path in files if path.is_file()]
    return [path for path in files if path.suffix in (".index", ".pt")] or files


def _read(file: Path) -> Any:
    """What is in any file of weights: tensors under its own names, or of torch.save the whole content."""
    if file.name.endswith(".index.json"):
        return {name: value for part in _shards(file) for name, value in _read(part).items()}
    if file.suffix == ".index":
        return read_google_weights(file)
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    return read_plain(file, str(file), "model", WHAT_CAN_BE_READ)


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index, "index of a model", "get the model again").get("weight_map")
    names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise UserError(f"{index} has no weight_map of files beside it", "get the model again")
    return [index.with_name(name) for name in names]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is missing, damaged or no safetensors file ({error})", "get it again") from error


def _configuration(contents: Any, file: Path) -> BertConfig | None:
    """What is written in the file, or else beside it."""
    stated = contents.get("configuration")  # of a dict, as it has weights
    if isinstance(stated, dict) and isinstance(stated.get("model"), dict):
        return BertConfig.from_values(stated["model"], f"the configuration in {file}", any_keys=True)
    for path in (file.with_name(CONFIG_NAME), file.with_name(GOOGLE_CONFIG_NAME)):
        values = read_json(path, "model configuration", "get it again") if path.is_file() else {}
        if "hidden_size" in values:  # other programs call their files config.json as well
            return BertConfig.from_values(values, str(path), any_keys=True)
    return None
