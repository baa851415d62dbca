"""kernels/fused/gelu_matmul.py: its formula against math.erf; on a Hopper GPU, its matmuls against fp32."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kernels.fused import blocks
from kernels.fused import gelu_matmul as module
from kernels.fused.blocks import Gelu, Hidden, fused_block
from kernels.fused.gelu_matmul import CAPABILITY, gelu_input_gradient, gelu_linear, has_epilogue
from kernels.fused.linear import prepare

kernel = pytest.importorskip("kernels.fused.gelu_matmul_kernel")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
both_forms = pytest.mark.parametrize("tanh", [False, True])


def on_hopper(test):
    is_there = torch.cuda.is_available() and torch.cuda.get_device_capability() == CAPABILITY
    reason = "the kernel is for compute capability 9.0"
    return pytest.mark.gpu(pytest.mark.skipif(not is_there, reason=reason)(test))


def fitted_phi(x):
    names = ("FIT_4", "FIT_3", "FIT_2", "FIT_1", "FIT_0")
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp2(x * np.polyval([getattr(kernel, name).value for name in names], x * x)))


def test_the_fit_is_off_by_less_than_16_bits_round():
    x = np.linspace(-40, 40, 320_001)
    phi = np.array([math.erfc(-each / math.sqrt(2)) / 2 for each in x])
    assert np.abs(x * fitted_phi(x) - x * phi).max() < 3.1e-6
    assert np.abs(fitted_phi(x) - phi).max() < 7e-6  # and so is the derivative, whose density is exact
    near = np.abs(x) <= 3
    assert np.abs(fitted_phi(x)[near] / phi[near] - 1).max() < 5e-4  # the left tail too; bf16 rounds by 4e-3


def test_it_is_left_out_where_it_does_not_run(monkeypatch):
    class Inputs:
        is_cuda, dtype, shape, device = True, torch.bfloat16, (5, 128), None

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert has_epilogue(Inputs, 512)
    assert not has_epilogue(Inputs, 384)
    for name, value in {"is_cuda": False, "dtype": torch.float32, "shape": (5, 96)}.items():
        with monkeypatch.context() as patched:
            patched.setattr(Inputs, name, value)
            assert not has_epilogue(Inputs, 512)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    assert not has_epilogue(Inputs, 512)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(module, "gelu_matmul", None)  # another Triton
    assert not has_epilogue(Inputs, 512)


def made(n_tokens, hidden_size, inner_size, dtype=torch.bfloat16):
    generator = torch.Generator(DEVICE).manual_seed(n_tokens)

    def normal(*shape, scale=1.0):
        return (scale * torch.randn(*shape, generator=generator, device=DEVICE)).to(dtype)

    weight = hidden_size**-0.5
    inputs, gradient = normal(n_tokens, hidden_size, scale=1.5), normal(n_tokens, hidden_size)
    return inputs, normal(inner_size, hidden_size, scale=weight), normal(inner_size), gradient


SHAPES = [(1, 64, 256), (127, 128, 512), (128, 192, 256), (1000, 768, 3072), (40_001, 64, 4096)]


@on_hopper
@both_forms
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_values_and_gradients(shape, dtype, rounding, tanh):
    inputs, weight, bias, gradient = made(*shape, dtype)
    inner, outputs = gelu_linear(inputs, weight, bias, tanh)
    expected_inner = F.linear(inputs.float(), weight.float(), bias.float())
    torch.testing.assert_close(inner.float(), expected_inner, atol=1e-4, rtol=rounding)
    leaf = inner.float().requires_grad_()
    expected = F.gelu(leaf, approximate="tanh" if tanh else "none")
    torch.testing.assert_close(outputs.float(), expected.detach(), atol=2e-5, rtol=rounding + 5e-4)

    last = weight.T.contiguous()
    result, sums = gelu_input_gradient(gradient, last, inner, tanh)
    expected.backward(gradient.float() @ last.float())
    # The matmul's result is rounded before it is multiplied, as a matmul and a pass round it.
    torch.testing.assert_close(result.float(), leaf.grad, atol=1e-4, rtol=2.5 * rounding)
    spread = leaf.grad.double().square().sum(0).sqrt()
    wanted = leaf.grad.double().sum(0)
    assert ((sums.double() - wanted).abs() <= 4 * rounding * spread + 1e-4).all()
    again, sums_again = gelu_input_gradient(gradient, last, inner, tanh)
    assert torch.equal(again, result)
    assert torch.equal(sums_again, sums)


@on_hopper
def test_in_a_cuda_graph():
    inputs, weight, bias, gradient = made(300, 128, 512)
    last = weight.T.contiguous()

    def both():
        inner, outputs = gelu_linear(inputs, weight, bias, tanh=False)
        return inner, outputs, *gelu_input_gradient(gradient, last, inner, tanh=False)

    both()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = both()
    others, *_, other_gradient = made(301, 128, 512)
    inputs.copy_(others[1:])
    gradient.copy_(other_gradient[1:])
    graph.replay()
    for actual, expected in zip(recorded, both(), strict=True):
        assert torch.equal(actual, expected)


def block_and_gradients(inputs, gradient):
    torch.manual_seed(0)
    with inputs.device:
        first, last, norm = torch.nn.Linear(128, 512), torch.nn.Linear(512, 128), torch.nn.LayerNorm(128)
    prepared = [prepare([layer], inputs.dtype, to_fp8=False)[0] for layer in (first, last)]
    leaf = inputs.clone().requires_grad_()
    result = fused_block(Hidden(leaf, leaf), first, Gelu(), last, norm, prepared, dropout_p=0.0)
    result.states.backward(gradient)
    parameters = (*first.parameters(), *last.parameters(), *norm.parameters())
    return [result.states.detach(), leaf.grad, *(parameter.grad for parameter in parameters)]


@on_hopper
def test_a_block_computes_the_same_with_it_as_without(monkeypatch):
    inputs, *_, gradient = made(300, 128, 512)
    uses = []
    monkeypatch.setattr(blocks, "has_epilogue", lambda *given: uses.append(given) or has_epilogue(*given))
    found = block_and_gradients(inputs, gradient)
    assert [size for _, size in uses] == [512, 512]
    monkeypatch.setattr(blocks, "has_epilogue", lambda *given: False)
    for actual, expected in zip(found, block_and_gradients(inputs, gradient), strict=True):
        error = (actual.double() - expected.double()).norm() / expected.double().norm()
        assert error < 5e-3  # bf16 rounds by 2e-3
