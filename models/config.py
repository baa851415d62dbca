"""What a BERT is, its shape in the keys of Google's `bert_config.json`, and how it is run."""

import dataclasses
from pathlib import Path
from types import MappingProxyType

import torch

from common.errors import Problems
from common.json_files import read_json
from kernels.layers import ACTIVATIONS

VOCABULARY_MULTIPLE = 8  # tensor cores want the vocabulary product's dimensions in multiples of 16 bytes

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


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT: the keys of Google's `bert_config.json`."""

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

    @classmethod
    def from_json_file(cls, path: str | Path) -> "BertConfig":
        """Read a configuration; raises UserError naming every unknown, missing or impossible value at once."""
        problems = Problems()
        values = read_json(path, "model configuration", "check --config_file")
        known = {field.name: field for field in dataclasses.fields(cls)}
        for key in sorted(values.keys() - known.keys()):
            problems.add(f"{path}: unknown key {key!r}", f"remove it or correct it to one of {', '.join(known)}")
        if "vocab_size" not in values:
            problems.add(f"{path}: vocab_size is missing", "set it to the number of lines of the vocabulary file")
        problems.raise_if_any()
        config = cls(**values)
        for sentence in config.problems():
            problems.add(f"{path}: {sentence}")
        problems.raise_if_any()
        return config

    def problems(self) -> list[str]:
        """What makes this configuration impossible, a sentence each."""
        found = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if field.type is int and not (isinstance(value, int) and is_number and value > 0):
                found.append(f"{field.name} is {value!r}; it must be a positive whole number.")
            elif field.name.endswith("_prob") and not (is_number and 0 <= value < 1):
                found.append(f"{field.name} is {value!r}; it must lie in [0, 1).")
            elif field.name == "initializer_range" and not (is_number and value > 0):
                found.append(f"initializer_range is {value!r}; it must be a positive number.")
        if self.hidden_act not in ACTIVATIONS:
            found.append(f"hidden_act is {self.hidden_act!r}; choose one of {', '.join(ACTIVATIONS)}.")
        if not found and self.hidden_size % self.num_attention_heads:
            found.append(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}."
            )
        return found

    @property
    def head_size(self) -> int:
        """Of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def padded_vocab_size(self) -> int:
        """`vocab_size` up to the next multiple of 8: the rows of the embedding inside the model."""
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @property
    def encoder_parameters(self) -> int:
        """Entries of the encoder's weight matrices: the E of the FLOP formula."""
        per_layer = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * per_layer


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a model runs. Of what it learns, nothing changes but the rounding."""

    compute_dtype: torch.dtype = torch.float32
    checkpoint_activations: bool = False
    """Keep each layer's input only, and compute the rest again."""
    compiled: bool = False
    """Have torch.compile fuse what is not fused by hand."""
    kernels: str = "torch"
    """What layers run on, `torch` or `triton`; kernels/launch.py says where the latter can be."""
    attention: str | None = None
    """A backend of kernels/attention/backends.py; None: by device and dtype."""
    in_fp8: bool = False
    """Layers on Triton's kernels, in bf16, have their products in fp8 (kernels/fused/fp8.py)."""
