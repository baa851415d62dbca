"""Anybody's BERT: our checkpoints, NVIDIA's, Hugging Face's, Google's.

All become tensors under the published names (modeling.py), with what is known of the model's shape and vocabulary. A
model of which half was loaded in silence trains, and is found out weeks later; so what is missing, left over or of
another shape is refused, but for heads of tasks. No code in a file is run: a pickle with more than tensors and
primitives in it is refused. Files are mapped, so that a weight is copied once, into the model.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from common.checkpoint_files import find_checkpoints, read_plain, weights_in
from common.errors import Problems, UserError
from common.json_files import read_json
from common.published_models import PUBLISHED_MODELS
from modeling import BertModel
from models.config import BertConfig
from pretrained.tensorflow import read_google_weights
from tokenization import VOCAB_NAME, configured_do_lower_case

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
WHAT_CAN_BE_READ = (
    "give a checkpoint of this program (ckpt_1000.pt) or of NVIDIA's (.pt), a Hugging Face folder (config.json and "
    "model.safetensors or pytorch_model.bin), Google's TensorFlow checkpoint (bert_model.ckpt) or the name of a "
    "published model that was downloaded before, such as bert-large-uncased"
)

EMBEDDINGS, MASKED_LM_BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
DECODER = "cls.predictions.decoder.weight"  # the embeddings once more
BUFFERS = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids")  # constants, not weights
# Rows of the vocabulary that only fill it up, for the hardware's sake, are fewer than this.
MAX_VOCABULARY_PADDING = 128

# Patterns in the names of all tools -> the published names, one after the other.
PUBLISHED_NAMES = (
    (r"^(module\.|_orig_mod\.)+", ""),  # what DistributedDataParallel and torch.compile put before names
    (r"/", "."),  # Google's, as the following
    (r"\.layer_(\d+)\.", r".layer.\1."),
    (r"^cls\.squad\.output_", "qa_outputs."),
    (r"^cls\.(seq_relationship|predictions)\.output_", r"cls.\1."),
    (r"^output_", "classifier."),
    (r"\.(gamma|weights|kernel)$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"_embeddings$", "_embeddings.weight"),
    (r"\.dense_act\.", ".dense."),  # NVIDIA's
    (r"^(embeddings|encoder|pooler)\.", r"bert.\1."),  # Hugging Face's, of a model without a head
    (r"^cls\.predictions\.decoder\.bias$", MASKED_LM_BIAS),
)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What was read of a model."""

    path: Path
    weights: Mapping[str, Tensor]
    """Under the published names, on the CPU and mapped where the file allows it."""
    config: BertConfig | None
    """The model's shape, where it is written in the file or beside it."""
    vocab_file: Path | None
    do_lower_case: bool | None
    """Whether the vocabulary is lower-cased; None where nothing says so."""

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

    def __str__(self) -> str:
        new = f"\n  randomly initialized, as the file has none of their shape: {few(self.new)}" if self.new else ""
        unused = f"\n  in the file and not used: {few(self.unused)}" if self.unused else ""
        return f"{self.path}: {len(self.weights)} weights loaded{new}{unused}"


def read_pretrained(path: str | Path) -> Pretrained:
    """Read a model: our checkpoint, NVIDIA's, a Hugging Face or Google folder, a file of theirs, or a published name.

    Args:
        path: a folder, a .pt, .bin or .safetensors file, an index of a sharded model, a TensorFlow checkpoint's prefix
            or any of its files, or a key of common.published_models.PUBLISHED_MODELS that was downloaded.

    Raises:
        UserError: nothing there; damaged; not a BERT; the file could run code.
    """
    file = _locate(path)
    weights, contents = _read(file)
    vocab_file = file.with_name(VOCAB_NAME)
    return Pretrained(
        path=file,
        weights=_published(weights, file),
        config=_configuration(contents, file),
        vocab_file=vocab_file if vocab_file.is_file() else None,
        do_lower_case=lower_case_of(file.parent),
    )


def fit(
    pretrained: Pretrained,
    model_class: type[nn.Module],
    config: BertConfig,
    may_be_missing: tuple[str, ...] = (),
    may_be_unused: tuple[str, ...] = (),
) -> Fitted:
    """The weights that a model of this class and shape takes; rows that only fill up the vocabulary are left out.

    Args:
        may_be_missing: beginnings of names that the file need not have, or may have in another shape.
        may_be_unused: beginnings of names that the file may have and the model not; "" for all but more layers.

    Raises:
        UserError: other weights are missing, of another shape or left over.
    """
    prefix = "bert." if model_class is BertModel else ""
    with torch.device("meta"):
        shapes = {prefix + name: tuple(tensor.shape) for name, tensor in model_class(config).state_dict().items()}
    weights, problems = dict(pretrained.weights), Problems()
    if DECODER in weights and _equal(weights[DECODER], weights[EMBEDDINGS]):
        del weights[DECODER]
    problems.check(
        shapes.pop(DECODER, None) is None or DECODER not in weights,
        f"{pretrained.path}: {DECODER} differs from {EMBEDDINGS}",
        "here the two are one, as in the published BERT, so this masked-LM head cannot be used",
    )
    for name in (EMBEDDINGS, MASKED_LM_BIAS):
        if name in weights and name in shapes and 0 <= len(weights[name]) - shapes[name][0] < MAX_VOCABULARY_PADDING:
            weights[name] = weights[name][: shapes[name][0]]
    found = {name: tuple(weights[name].shape) if name in weights else "missing" for name in shapes}
    new = [name for name, shape in shapes.items() if found[name] != shape]
    wrong = [f"{name} {shapes[name]} is {found[name]}" for name in new if not name.startswith(may_be_missing)]
    unused = [name for name in weights if name not in shapes]
    excess = [name for name in unused if name.startswith("bert.encoder.") or not name.startswith(may_be_unused)]
    left = [f"{name} {tuple(weights[name].shape)}" for name in excess]
    for what, names in (("does not hold the weights", wrong), ("holds more than the weights", left)):
        problems.check(
            not names,
            f"{pretrained.path} {what} of a {model_class.__name__} of this configuration: {few(names)}",
            "give the configuration and the vocabulary that it was trained with",
        )
    problems.raise_if_any()
    kept = {name.removeprefix(prefix): weights[name] for name in shapes if name not in new}
    return Fitted(pretrained.path, kept, new, unused)


def few(names: Sequence[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


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
    others = sorted([*folder.glob("*.index"), *folder.glob("*.pt")])
    if len(others) > 1:
        names = few([path.name for path in others])
        raise UserError(f"The folder {folder} holds several models ({names})", "give the path of one of them")
    if not others:
        raise UserError(f"The folder {folder} holds no weights that can be read", WHAT_CAN_BE_READ)
    return others[0]


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in any file under its own names, and, of a file of torch.save, the whole content."""
    if file.name.endswith(".index.json"):
        return {name: weight for part in _shards(file) for name, weight in _read(part)[0].items()}, {}
    if file.suffix == ".index":
        return read_google_weights(file), {}
    if file.suffix == ".safetensors":
        return _read_safetensors(file), {}
    contents = read_plain(file, str(file), "model", WHAT_CAN_BE_READ)
    return weights_in(contents, file), contents


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


def _published(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights under the published names and once each, without constants."""
    renamed: dict[str, Tensor] = {}
    for original, weight in weights.items():
        name = original
        for pattern, replacement in PUBLISHED_NAMES:
            name = re.sub(pattern, replacement, name)
        if name in BUFFERS:
            continue
        if not weight.is_floating_point():
            raise UserError(f"{path}: {name} is of type {weight.dtype}", "give a model that is not quantized")
        if name in renamed and not _equal(renamed[name], weight):
            raise UserError(f"{path} holds {name} twice, under two names", "use a file that holds it once")
        renamed[name] = weight
    if EMBEDDINGS not in renamed or renamed[EMBEDDINGS].dim() != 2:
        raise UserError(f"{path} holds no BERT, but {few(list(renamed)) or 'nothing'}", WHAT_CAN_BE_READ)
    return renamed


def _configuration(contents: Mapping[str, Any], file: Path) -> BertConfig | None:
    """What is written in the file, or else beside it."""
    stated = contents.get("configuration")
    if isinstance(stated, dict) and isinstance(stated.get("model"), dict):
        return BertConfig.from_values(stated["model"], f"the configuration in {file}")
    for path in (file.with_name(CONFIG_NAME), file.with_name(GOOGLE_CONFIG_NAME)):
        # Other programs call their files config.json as well.
        if path.is_file() and "hidden_size" in read_json(path, "model configuration", "get it again"):
            return BertConfig.from_json_file(path)
    return None


def lower_case_of(folder: Path) -> bool | None:
    """What is written beside a vocabulary says, or else, of Google's models, the folder's name."""
    published = {model.folder: model.do_lower_case for model in PUBLISHED_MODELS.values()}
    return configured_do_lower_case(folder, published.get(folder.name))
