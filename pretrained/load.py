"""Anybody's BERT: our checkpoints, NVIDIA's, Hugging Face's, Google's.

People start from the weights they have, and each tool left its own kind of file. All become the same thing here:
tensors under the published names (modeling.py), with what is known of the model's shape and of its vocabulary. What was
not taken along is said, and loading into a model tells what was loaded, what starts at random and what was not used. A
model of which half was loaded in silence trains, and is found out weeks later; so anything that is missing, left over
or of another shape is refused, but for what the caller says may be: the head that a new task brings, the head that an
old one leaves.

Nothing here runs code out of a file: tensors and primitives are loaded, and a pickle with more in it is refused. Files
are mapped, so that a weight is copied once, into the model.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from common.checkpoint_files import find_checkpoints, read_plain, weights_in
from common.errors import Problems, UserError
from common.json_files import read_json
from common.published_models import PUBLISHED_MODELS
from models.config import BertConfig
from pretrained.hugging_face import (
    CONFIG_NAME,
    DECODER,
    EMBEDDINGS,
    INDEX_NAME,
    MASKED_LM_BIAS,
    MAX_VOCABULARY_PADDING,
    OLD_INDEX_NAME,
    OLD_WEIGHTS_NAME,
    WEIGHTS_NAME,
    check_tied,
    config_from,
    is_tied,
    read_safetensors,
    shard_files,
    trim_vocabulary,
)
from pretrained.tensorflow import read_google_weights
from tokenization import VOCAB_NAME, configured_do_lower_case

HUGGING_FACE, PYTORCH, TENSORFLOW = "Hugging Face model", "PyTorch file", "TensorFlow checkpoint"

GOOGLE_CONFIG_NAME, GOOGLE_PREFIX = "bert_config.json", "bert_model.ckpt"
TENSORFLOW_SUFFIX = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")
WHAT_CAN_BE_READ = (
    "give a checkpoint of this program (ckpt_1000.pt) or of NVIDIA's (.pt), a Hugging Face folder (config.json and "
    "model.safetensors or pytorch_model.bin), Google's TensorFlow checkpoint (bert_model.ckpt) or the name of a "
    "published model that was downloaded before, such as bert-large-uncased"
)

DECODER_BIAS = "cls.predictions.decoder.bias"
BUFFERS = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids")  # constants, not weights

WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # what DistributedDataParallel and torch.compile put before names
OTHER_NAMES = (
    (re.compile(r"^(embeddings|encoder|pooler)\."), r"bert.\1."),
    (re.compile(r"\.dense_act\."), ".dense."),
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
)
# Keys of BertConfig -> the weight and the dimension that tell them.
SIZES = MappingProxyType(
    {
        "vocab_size": (EMBEDDINGS, 0),
        "hidden_size": (EMBEDDINGS, 1),
        "intermediate_size": ("bert.encoder.layer.0.intermediate.dense.weight", 0),
        "max_position_embeddings": ("bert.embeddings.position_embeddings.weight", 0),
        "type_vocab_size": ("bert.embeddings.token_type_embeddings.weight", 0),
    }
)
CASED = re.compile(r"(^|[_-])(un)?cased([_-]|$)")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What was read.

    Attributes:
        path: the file, or the prefix of the files, that the weights are from.
        kind: what it is, in words.
        weights: under the published names, on the CPU and mapped where the file allows it. The vocabulary's rows may
            be more than the vocabulary's tokens.
        config: the model's shape, where it is written anywhere beside the weights.
        vocab_file: the vocabulary, where it lies beside the weights.
        do_lower_case: whether the vocabulary is lower-cased; None where nothing says so.
        dropped: names in the file that are no weights: an optimizer's, constants.
    """

    path: Path
    kind: str
    weights: Mapping[str, Tensor]
    config: BertConfig | None
    vocab_file: Path | None
    do_lower_case: bool | None
    dropped: tuple[str, ...]

    def known_config(self) -> BertConfig:
        """The configuration; raises UserError, with what can be told from the weights, where there is none."""
        if self.config is None:
            told = ", ".join(f'"{key}": {value}' for key, value in sizes(self.weights).items())
            raise UserError(
                f"{self.path} does not say its model's configuration, and weights do not tell the number of attention "
                "heads",
                f"give --config_file a JSON file with num_attention_heads and, as the weights tell, {told}",
            )
        return self.config

    def with_config(self, config: BertConfig, where: str) -> "Pretrained":
        """The same with this configuration; raises UserError, naming every value, where the weights are not of it."""
        problems = Problems()
        for key, value in sizes(self.weights).items():
            stated = getattr(config, key)
            fits = 0 <= value - stated < MAX_VOCABULARY_PADDING if key == "vocab_size" else value == stated
            problems.check(
                fits,
                f"{where} says {key} {stated}, and the weights in {self.path} have {value}",
                "give the one they are of",
            )
        problems.raise_if_any()
        return dataclasses.replace(self, config=config)


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of each tensor when weights were loaded into a model; names are the published ones.

    Attributes:
        source: where the weights are from, and what that is.
        loaded: in the model now.
        new: the model's, not in the file: they keep their initial values.
        other_shape: in both, with the file's shape and the model's; not loaded, as if new.
        unused: the file's, not in the model.
        dropped: see `Pretrained`.
    """

    source: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    other_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    unused: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} weights loaded"]
        for what, names in (
            ("randomly initialized, as the file has none", self.new),
            ("randomly initialized, as the file's are of another shape", tuple(map(_shapes, self.other_shape))),
            ("in the file and not used", self.unused),
            ("in the file and no weights", self.dropped),
        ):
            if names:
                lines.append(f"  {what}: {few(names)}")
        return "\n".join(lines)


def read_pretrained(path: str | Path) -> Pretrained:
    """Read a model: our checkpoint, NVIDIA's, a Hugging Face or Google folder, a file of theirs, or a published name.

    Args:
        path: a folder (of several kinds of weights in it, the first of `_weights_in`), a .pt, .bin or .safetensors
            file, an index of a sharded model, a TensorFlow checkpoint's prefix or any of its files, or a key of
            common.published_models.PUBLISHED_MODELS, looked for where `BertTokenizer.from_pretrained` looks.

    Raises:
        UserError: nothing there; damaged; not a BERT; weights and configuration differ; the file could run code.
    """
    kind, file = _locate(path)
    folder = file.parent
    config_names, state, dropped = (CONFIG_NAME, GOOGLE_CONFIG_NAME), {}, ()
    if kind == TENSORFLOW:
        weights, dropped = read_google_weights(file)
        config_names = (GOOGLE_CONFIG_NAME, CONFIG_NAME)
    elif file.name.endswith(".index.json"):
        weights = _sharded_weights(file)
    else:
        weights, state = _weights_of(file)
    weights, constants = _published(weights, file)
    vocab_file = folder / VOCAB_NAME
    read = Pretrained(
        path=file,
        kind=kind,
        weights=weights,
        config=None,
        vocab_file=vocab_file if vocab_file.is_file() else None,
        do_lower_case=lower_case_of(path, folder),
        dropped=(*dropped, *constants),
    )
    values, where = _configuration(state, file, config_names)
    return read.with_config(config_from(values, where), where) if values else read


def load_pretrained(
    model: nn.Module,
    pretrained: Pretrained,
    may_be_missing: tuple[str, ...] = ("qa_outputs.",),
    may_be_unused: tuple[str, ...] = ("cls.", "bert.pooler."),
) -> LoadReport:
    """Copy the weights into a model of modeling.py; rows that only fill up the vocabulary are left out.

    Args:
        may_be_missing: beginnings of names that the file need not have, or may have in another shape; they keep their
            initial values.
        may_be_unused: beginnings of names that the file may have and the model not.

    Raises:
        UserError: other weights are missing, of another shape or left over; the model is unchanged.
    """
    prefix = "" if any(name.startswith("bert.") for name in model.state_dict()) else "bert."
    wanted = {prefix + name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = trim_vocabulary(pretrained.weights, model.config.vocab_size, str(pretrained.path))
    if wanted.pop(DECODER, None):
        check_tied(pretrained.weights, str(pretrained.path))
    other_shape = tuple(
        (name, tuple(weights[name].shape), shape)
        for name, shape in wanted.items()
        if name in weights and tuple(weights[name].shape) != shape
    )
    differing = {name for name, _, _ in other_shape}
    report = LoadReport(
        source=f"{pretrained.path} ({pretrained.kind})",
        loaded=tuple(name for name in wanted if name in weights and name not in differing),
        new=tuple(name for name in wanted if name not in weights),
        other_shape=other_shape,
        unused=tuple(name for name in weights if name not in wanted),
        dropped=pretrained.dropped,
    )
    _refuse_half(report, wanted, weights, may_be_missing, may_be_unused)
    model.load_state_dict({name.removeprefix(prefix): weights[name] for name in report.loaded}, strict=False)
    return report


def sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The keys of BertConfig that the weights' shapes tell; the vocabulary is with what fills it up."""
    layers = {match[1] for name in weights if (match := re.match(r"bert\.encoder\.layer\.(\d+)\.", name))}
    told = {key: weights[name].shape[dim] for key, (name, dim) in SIZES.items() if name in weights}
    return told | {"num_hidden_layers": len(layers)}


def _refuse_half(report, wanted, weights, may_be_missing, may_be_unused) -> None:
    missing = [f"{name} {wanted[name]}" for name in report.new if not name.startswith(may_be_missing)]
    differing = [_shapes(entry) for entry in report.other_shape if not entry[0].startswith(may_be_missing)]
    unused = [f"{name} {tuple(weights[name].shape)}" for name in report.unused if not name.startswith(may_be_unused)]
    problems = Problems()
    for what, names in (
        ("does not have all of the model's weights; missing", missing),
        ("has weights of another shape than the model's", differing),
        ("has weights that the model has no place for", unused),
    ):
        problems.check(
            not names, f"{report.source} {what}: {few(names)}", "give the configuration that it was trained with"
        )
    problems.raise_if_any()


def _shapes(entry: tuple[str, tuple[int, ...], tuple[int, ...]]) -> str:
    name, of_file, of_model = entry
    return f"{name} {of_file} for the model's {of_model}"


def few(names: list[str] | tuple[str, ...], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _locate(path: str | Path) -> tuple[str, Path]:
    """The kind of a model, and its file; for TensorFlow's, the prefix of the files."""
    name, path = str(path), Path(path)
    if name in PUBLISHED_MODELS and not path.exists():
        model = PUBLISHED_MODELS[name]
        path = model.downloaded_to()
        if not path.is_dir():
            raise UserError(
                f"The weights of {name} are not at {path}",
                f"unpack Google's {model.folder}.zip there, or give the path of a model instead of the name",
            )
    if path.is_dir():
        for kind, file in _weights_in(path):
            return kind, file
        raise UserError(f"The folder {path} holds no weights that can be read", WHAT_CAN_BE_READ)
    prefix = Path(TENSORFLOW_SUFFIX.sub("", str(path)))
    if prefix != path or Path(f"{prefix}.index").is_file():
        return TENSORFLOW, prefix
    if not path.is_file():
        raise UserError(f"There is no model {path}", WHAT_CAN_BE_READ)
    is_hugging_face = path.suffix in (".safetensors", ".bin") or path.name.endswith(".index.json")
    return (HUGGING_FACE if is_hugging_face else PYTORCH), path


def _weights_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """What a folder has, the best first. Published folders often have the same weights several times."""
    for name in (WEIGHTS_NAME, INDEX_NAME, OLD_WEIGHTS_NAME, OLD_INDEX_NAME):
        if (folder / name).is_file():
            yield HUGGING_FACE, folder / name
    prefixes = sorted(path.with_suffix("") for path in folder.glob("*.index"))
    if folder / GOOGLE_PREFIX in prefixes:
        yield TENSORFLOW, folder / GOOGLE_PREFIX
    checkpoints = find_checkpoints(folder)
    if checkpoints:
        yield PYTORCH, checkpoints[-1][1]
    others = [(TENSORFLOW, path) for path in prefixes] + [(PYTORCH, path) for path in sorted(folder.glob("*.pt"))]
    if not checkpoints and len(others) > 1:
        names = few([path.name for _, path in others])
        raise UserError(f"The folder {folder} holds several models ({names})", "give the path of one of them")
    yield from others


def _sharded_weights(index: Path) -> dict[str, Tensor]:
    weights = {}
    for file, names in shard_files(index).items():
        held, _ = _weights_of(file)
        if missing := sorted(names - held.keys()):
            raise UserError(f"{file} does not have what {index.name} says it has: {few(missing)}", "get it again")
        weights |= held
    return weights


def _weights_of(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in a .safetensors, .pt or .bin file, and all that is in one of the latter two."""
    if path.suffix == ".safetensors":
        return read_safetensors(path), {}
    contents = read_plain(path, str(path), "model", WHAT_CAN_BE_READ)
    return weights_in(contents, path), contents if isinstance(contents, dict) else {}


def _published(weights: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights under the published names and once each, and the names of constants among them."""
    renamed: dict[str, Tensor] = {}
    for original, weight in weights.items():
        name = WRAPPERS.sub("", original)
        for pattern, replacement in OTHER_NAMES:
            name = pattern.sub(replacement, name)
        if name in renamed:
            raise UserError(f"{path} holds {name} twice, under two names", "use a file that holds it once")
        renamed[name] = weight
    constants = tuple(name for name in BUFFERS if renamed.pop(name, None) is not None)
    if EMBEDDINGS not in renamed or renamed[EMBEDDINGS].dim() != 2:
        raise UserError(f"{path} holds no BERT, but {few(list(renamed)) or 'nothing'}", WHAT_CAN_BE_READ)
    for name, weight in renamed.items():
        if not weight.is_floating_point():
            raise UserError(f"{path}: {name} is of type {weight.dtype}", "give a model that is not quantized")
    if is_tied(renamed):  # one that differs is refused where it would be used
        renamed.pop(DECODER, None)
    if DECODER_BIAS in renamed:  # Hugging Face's second name
        renamed.setdefault(MASKED_LM_BIAS, renamed.pop(DECODER_BIAS))
    return renamed, constants


def _configuration(state: Mapping[str, Any], file: Path, names: tuple[str, ...]) -> tuple[dict, str]:
    """The configuration that is written in the file, or else beside it, and what to call it; empty if there is none."""
    configuration = state.get("configuration")
    for values in (configuration.get("model") if isinstance(configuration, dict) else None, state.get("config")):
        if isinstance(values, dict) and "hidden_size" in values:
            return values, f"the configuration in {file}"
    for path in (file.parent / name for name in names):
        values = read_json(path, "model configuration", "correct it, or get it again") if path.is_file() else {}
        if "hidden_size" in values:  # other programs call their files config.json as well
            return values, str(path)
    return {}, ""


def lower_case_of(given: str | Path, folder: Path) -> bool | None:
    """What is written beside the vocabulary says, or else the name of the model or of its folder; else None."""
    of_folder = next((model for model in PUBLISHED_MODELS.values() if model.folder == folder.name), None)
    if model := of_folder or PUBLISHED_MODELS.get(str(given)):
        by_name = model.do_lower_case
    else:
        match = CASED.search(folder.name)
        by_name = bool(match[2]) if match else None
    return configured_do_lower_case(folder, by_name)
