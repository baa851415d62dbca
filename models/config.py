"""What a BERT is, its shape in the keys of Google's `bert_config.json`, and how it is run."""

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from common.errors import Problem, Problems, UserError
from common.json_files import read_json
from kernels.layers import ACTIVATIONS, LAYER_NORM_EPS

VOCABULARY_MULTIPLE = 8  # tensor cores want the dimensions of the vocabulary's matmul in multiples of 16 bytes

# The shipped configurations, by the names that --bert_model takes.
_FOLDER = Path(__file__).resolve().parent.parent / "bert_configs"
BERT_CONFIGS = MappingProxyType(
    {
        "tiny": _FOLDER / "tiny.json",
        "base": _FOLDER / "base.json",
        "large": _FOLDER / "large.json",
        "bert-base-uncased": _FOLDER / "base.json",
        "bert-large-uncased": _FOLDER / "large.json",
    }
)

# A file with one of these keys is Hugging Face's, in which many others say nothing of what the model computes.
_HUGGING_FACE_KEYS = frozenset(("model_type", "architectures", "transformers_version", "torchscript", "layer_norm_eps"))
# Beginnings of keys in Google's own files, whose code reads none of them; and what the tokenizer reads.
_OTHER_KEYS = ("directionality", "pooler_", "do_lower_case")
# What changes the computation, with the value that the model here has; `auto_map` names code of the model's own.
_ONLY_VALUES = MappingProxyType(
    {
        "model_type": "bert",
        "position_embedding_type": "absolute",
        "layer_norm_eps": LAYER_NORM_EPS,
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "pruned_heads": {},
        "auto_map": None,
    }
)
# No BERT has come near these, and a size beyond them is a slip, or takes minutes and all memory to find out.
_LARGEST = MappingProxyType(
    {
        "vocab_size": 2**24,
        "hidden_size": 2**16,
        "num_hidden_layers": 1000,
        "num_attention_heads": 2**12,
        "intermediate_size": 2**18,
        "max_position_embeddings": 2**20,
        "type_vocab_size": 2**16,
    }
)


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT, possible or not made at all: the keys of Google's `bert_config.json`."""

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        """Raises UserError naming every impossible value at once."""
        problems = Problems()
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            said = f"{name} is {value!r:.60}"
            if field.type is int:
                is_right = is_number and isinstance(value, int) and 0 < value <= _LARGEST[name]
                problems.check(is_right, said, f"it must be a positive whole number, {_LARGEST[name]:,} at most")
            elif name.endswith("_prob"):
                problems.check(is_number and 0 <= value < 1, said, "it must lie in [0, 1)")
            elif name == "initializer_range":
                problems.check(is_number and 0 < value <= 1, said, "it must be a positive number, 1 at most")
        is_known = self.hidden_act in tuple(ACTIVATIONS)
        problems.check(is_known, f"hidden_act is {self.hidden_act!r:.60}", f"choose one of {', '.join(ACTIVATIONS)}")
        problems.raise_if_any()
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}."
            )

    @classmethod
    def from_json_file(cls, path: str | Path) -> "BertConfig":
        """Read a bert_config.json of Google's or a config.json of Hugging Face's; errors are those of `from_values`."""
        return cls.from_values(read_json(path, "model configuration", "correct it, or get it again"), str(path))

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str, any_keys: bool = False) -> "BertConfig":
        """From a JSON object; sentences about it begin with `where`.

        With `any_keys`, as for files that came with weights, an unknown key counts only where it may be a misspelt one.

        Raises UserError naming at once every missing or impossible value, every key that makes it a model that is not
        computed here, and every key that may be a misspelt one: any unknown one, but for those of Google's and
        Hugging Face's that shape no BERT.
        """
        problems, known = Problems(), [field.name for field in dataclasses.fields(cls)]
        for key, value in _ONLY_VALUES.items():
            found = values.get(key) or None  # false, null and empty say the same
            problems.check(
                found in (value or None, None),
                f"{where}: {key} is {found!r}",
                f"only models whose {key} is {value!r} can be read",
            )
        is_hugging_face = not _HUGGING_FACE_KEYS.isdisjoint(values)
        absent = [name for name in known if name not in values]
        for key in sorted(values.keys() - known - _ONLY_VALUES.keys()):
            meant = difflib.get_close_matches(key, absent, 1, cutoff=0.8)
            is_ignored = any_keys or is_hugging_face or key.startswith(_OTHER_KEYS)
            remedy = f"remove it or correct it to {' or '.join(meant) or 'one of ' + ', '.join(known)}"
            problems.check(is_ignored and not meant, f"{where}: unknown key {key!r}", remedy)
        missing = Problem(f"{where}: vocab_size is missing", "set it to the number of lines of the vocabulary file")
        problems.check("vocab_size" in values, missing)
        given = {"vocab_size": 1} | {name: values[name] for name in known if name in values}
        try:
            config = cls(**given)
        except UserError as error:
            problems.extend(Problem(f"{where}: {each.problem}", each.remedy) for each in error.problems)
        problems.raise_if_any()
        return config

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def padded_vocab_size(self) -> int:
        """`vocab_size` up to the next multiple of 8: the rows of the embedding inside the model."""
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @property
    def encoder_parameters(self) -> int:
        """Entries of the encoder's weight matrices: the E of the FLOP formula."""
        return self.num_hidden_layers * (3 * self.hidden_size**2 + self.parameters_behind_attention)

    @property
    def parameters_behind_attention(self) -> int:
        """Entries of a layer's weight matrices behind its attention: the D of the FLOP formula."""
        return self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a model runs. Of what it learns, nothing changes but the rounding."""

    compute_dtype: torch.dtype = torch.float32
    checkpoint_activations: bool = False
    """Keep each layer's input only, and compute the rest again."""
    compiled: bool = False
    """Have torch.compile fuse what no fused kernel computes."""
    kernels: str = "torch"
    """What layers run on, `torch` or `triton`; kernels/launch.py says where the latter can be."""
    attention: str | None = None
    """A backend of kernels/attention/backends.py; None: by device and dtype."""
    in_fp8: bool = False
    """Layers on Triton's kernels, in bf16, compute their matmuls in fp8 (kernels/fused/fp8.py)."""
    fp8_weight_gradients: bool = False
    """Those of weight gradients too, where the others are."""
