"""Which models the fused layers (kernels/fused/) compute: an allowlist, by the fields of the configuration.

A field that is not listed is refused wherever it differs from its default. So a new variant of the model runs on
plain layers first, and the fused ones refuse it by name instead of computing something else.
"""

import dataclasses
from collections.abc import Iterator
from types import MappingProxyType

from common.errors import Problem
from kernels.layers import GELU_ERF_NAMES, GELU_TANH_NAMES
from models.config import BertConfig

ANY_VALUE = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
)
THESE_VALUES = MappingProxyType({"hidden_act": GELU_ERF_NAMES + GELU_TANH_NAMES})
FP8_MULTIPLE = 16  # elements of fp8 in the 16 bytes that matmuls are aligned to


def fused_problems(config: BertConfig | None, layer_norm: str, in_fp8: bool) -> Iterator[Problem]:
    """What of a model the fused layers do not compute; `config` is None where it could not be read."""
    if layer_norm != "torch":
        yield Problem(f"--kernels triton has a LayerNorm of its own, and --layer_norm is {layer_norm}", "leave one out")
    for field in dataclasses.fields(config) if config else ():
        name, value = field.name, getattr(config, field.name)
        if name in THESE_VALUES:
            if value not in THESE_VALUES[name]:
                computed = ", ".join(THESE_VALUES[name])
                yield Problem(
                    f"--kernels triton computes {computed}, and the model's {name} is {value}", "use --kernels torch"
                )
        elif name not in ANY_VALUE and value != field.default:
            yield Problem(f"--kernels triton does not compute the model's {name}, {value!r}", "use --kernels torch")
    for name in ("hidden_size", "intermediate_size") if config and in_fp8 else ():
        if getattr(config, name) % FP8_MULTIPLE:
            yield Problem(
                f"--precision fp8 takes matrices whose sides are multiples of {FP8_MULTIPLE}, and the model's {name} "
                f"is {getattr(config, name)}",
                "use bf16",
            )
