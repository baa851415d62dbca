"""kernels/fused/linear.py: parameters as products take them, as exact as a conversion of each, in launches for all."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.fused import fp8
from kernels.fused.linear import is_fp8, prepare
from kernels.layers import Linear
from models.encoder import initialize

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# They launch nothing: views, and memory to write to.
FREE = {"detach", "empty", "empty_like", "select", "slice", "split", "unbind", "unsqueeze"}


class Launches(TorchDispatchMode):
    """Counts the operators that launch kernels."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        name = operator._schema.name.removeprefix("aten::")
        if name not in FREE:
            self.counts[name] += 1
        return operator(*arguments, **keywords or {})


def linears(n: int) -> list[Linear]:
    torch.manual_seed(0)
    layers = [Linear(48, 32).to(DEVICE) for _ in range(n)]
    for layer in layers:
        initialize(layer, 0.02)
        nn.init.normal_(layer.bias)
    return layers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits(dtype):
    layers = linears(3)
    for layer, (weight, bias, *_) in zip(layers, prepare(layers, dtype, False), strict=True):
        assert not is_fp8(weight)
        assert torch.equal(weight[0], layer.weight.to(dtype))
        assert torch.equal(bias, layer.bias.to(dtype))
        assert not weight[0].requires_grad


def test_in_fp8_biases_are_not():
    layers = linears(3)
    for layer, (weight, bias, largest_bias, *_) in zip(layers, prepare(layers, torch.bfloat16, True), strict=True):
        assert is_fp8(weight)
        (alone,) = fp8.quantize_weights([layer.weight.detach()])
        assert all(torch.equal(part.float(), other.float()) for part, other in zip(weight, alone, strict=True))
        assert torch.equal(bias, layer.bias.bfloat16())
        assert largest_bias.tolist() == [bias.abs().max().item()] * 4


def test_in_fp32_nothing_is_copied():
    layers = linears(2)
    for layer, (weight, bias, *_) in zip(layers, prepare(layers, torch.float32, False), strict=True):
        assert weight[0] is layer.weight
        assert bias is layer.bias


@pytest.mark.parametrize("in_fp8", [(False, False), (True, False), (True, True)])
def test_launches_do_not_grow_with_layers(monkeypatch, in_fp8):
    grids = []

    class Kernel:
        def __getitem__(self, grid):
            grids.append(grid)
            return lambda *arguments, **settings: None

    monkeypatch.setattr(fp8, "_quantize_weights", Kernel())
    counts = []
    for layers in (linears(1), linears(5)):
        with Launches() as launches:
            prepare(layers, torch.bfloat16, *in_fp8)
        counts.append(launches.counts)
    assert counts[0] == counts[1]
    to_fp8, fp8_weight_gradients = in_fp8
    assert counts[0]["_foreach_copy_"] == (1 if to_fp8 else 2)
    assert counts[0]["zeros"] == fp8_weight_gradients
    assert [grid[2] for grid in grids] == ([1, 5] if to_fp8 else [])


def test_with_fp8_weight_gradients_every_factor_has_its_own_zero():
    prepared = prepare(linears(3), torch.bfloat16, to_fp8=True, fp8_weight_gradients=True)
    zeros = [largest for each in prepared for largest in (each.largest, each.largest_gradient)]
    assert [zero.tolist() for zero in zeros] == [[0.0]] * 6
    assert len({zero.data_ptr() for zero in zeros}) == 6
