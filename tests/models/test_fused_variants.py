"""What the fused layers compute, by name: today's fields, and a variant that nobody has listed."""

import dataclasses

import pytest

from models.config import BertConfig
from models.fused_variants import fused_problems

CONFIG = BertConfig(100, hidden_size=32, num_attention_heads=2, intermediate_size=64)


@dataclasses.dataclass(frozen=True)
class StrangersConfig(BertConfig):
    norm_position: str = "post"


def sentences(config, layer_norm="torch", in_fp8=False):
    return [str(problem) for problem in fused_problems(config, layer_norm, in_fp8)]


@pytest.mark.parametrize("in_fp8", [False, True])
def test_shapes_and_probabilities_are_free(in_fp8):
    other = dataclasses.replace(CONFIG, num_hidden_layers=3, hidden_dropout_prob=0.0, initializer_range=0.1)
    assert sentences(other, in_fp8=in_fp8) == []


def test_what_they_do_not_compute_is_named():
    config = dataclasses.replace(CONFIG, hidden_act="relu", hidden_size=24, intermediate_size=40)
    assert sentences(config, "apex") == [
        "--kernels triton has a LayerNorm of its own, and --layer_norm is apex; leave one out.",
        "--kernels triton computes gelu, gelu_python, gelu_new, gelu_pytorch_tanh, gelu_fast, gelu_python_tanh, "
        "gelu_accurate, and the model's hidden_act is relu; use --kernels torch.",
    ]
    assert sentences(config, in_fp8=True)[1:] == [
        "--precision fp8 takes matrices whose sides are multiples of 16, and the model's hidden_size is 24; use bf16.",
        "--precision fp8 takes matrices whose sides are multiples of 16, and the model's intermediate_size is 40; "
        "use bf16.",
    ]


def test_a_field_that_nobody_listed_is_refused_unless_it_has_its_default():
    assert sentences(StrangersConfig(100)) == []
    (sentence,) = sentences(StrangersConfig(100, norm_position="pre"))
    assert sentence == "--kernels triton does not compute the model's norm_position, 'pre'; use --kernels torch."


def test_without_a_configuration_flags_are_still_looked_at():
    assert len(sentences(None, "apex", in_fp8=True)) == 1
