"""kernels/fused/gelu_matmul.py: its formula against math.erf; on a Hopper GPU, its matmuls against fp32."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kernels.fused import blocks, fp8
from kernels.fused import gelu_matmul as module
from kernels.fused.blocks import Gelu, Hidden, fused_block
from kernels.fused.gelu_matmul import CAPABILITY, gelu_input_gradient, gelu_linear, has_epilogue
from kernels.fused.linear import Prepared, prepare

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
    class States:
        is_cuda, dtype, device = True, torch.bfloat16, None

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert has_epilogue(States, 128, 512)
    assert not has_epilogue(States, 128, 384)
    assert not has_epilogue(States, 192, 512)
    for name, value in {"is_cuda": False, "dtype": torch.float32}.items():
        with monkeypatch.context() as patched:
            patched.setattr(States, name, value)
            assert not has_epilogue(States, 128, 512)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    assert not has_epilogue(States, 128, 512)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(module, "gelu_matmul", None)  # another Triton
    assert not has_epilogue(States, 128, 512)


def made(n_tokens, hidden_size, inner_size, dtype=torch.bfloat16):
    generator = torch.Generator(DEVICE).manual_seed(n_tokens)

    def normal(*shape, scale=1.0):
        return (scale * torch.randn(*shape, generator=generator, device=DEVICE)).to(dtype)

    weight = hidden_size**-0.5
    inputs, gradient = normal(n_tokens, hidden_size, scale=1.5), normal(n_tokens, hidden_size)
    return inputs, normal(inner_size, hidden_size, scale=weight), normal(inner_size), gradient


SHAPES = [(1, 128, 256), (127, 128, 512), (128, 384, 256), (1000, 768, 3072), (40_001, 128, 4096)]


@on_hopper
@both_forms
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_values_and_gradients(shape, dtype, rounding, tanh):
    inputs, weight, bias, gradient = made(*shape, dtype)
    inner, outputs = gelu_linear(inputs, Prepared((weight,), bias), None, None, tanh)
    expected_inner = F.linear(inputs.float(), weight.float(), bias.float())
    torch.testing.assert_close(inner.float(), expected_inner, atol=1e-4, rtol=rounding)
    leaf = inner.float().requires_grad_()
    expected = F.gelu(leaf, approximate="tanh" if tanh else "none")
    torch.testing.assert_close(outputs.float(), expected.detach(), atol=2e-5, rtol=rounding + 5e-4)

    last = weight.T.contiguous()
    result, sums = gelu_input_gradient(gradient, (last,), None, inner, None, tanh)
    expected.backward(gradient.float() @ last.float())
    # The matmul's result is rounded before it is multiplied, as a matmul and a pass round it.
    torch.testing.assert_close(result.float(), leaf.grad, atol=1e-4, rtol=2.5 * rounding)
    spread = leaf.grad.double().square().sum(0).sqrt()
    wanted = leaf.grad.double().sum(0)
    assert ((sums.double() - wanted).abs() <= 4 * rounding * spread + 1e-4).all()
    again, sums_again = gelu_input_gradient(gradient, (last,), None, inner, None, tanh)
    assert torch.equal(again, result)
    assert torch.equal(sums_again, sums)


def exact(rows):
    return rows.values.double() * rows.scale


def room(n_rows, n_columns, alone):
    return fp8.empty_rows(n_rows, n_columns, DEVICE, torch.zeros(1, device=DEVICE) if alone else None)


def assert_quantized(rows, expected, bound):
    """Its scales are the smallest powers of two that bring a bound (R,) into e4m3's range, and its values are right."""
    shares = rows.scale[:, 0].double() * 448 / bound
    assert ((shares > 1 - 1e-5) & (shares < 2 + 1e-5)).all()
    assert torch.equal(rows.scale.log2(), rows.scale.log2().round())
    assert (expected.abs().amax(1) <= bound).all()
    errors = (exact(rows) - expected).abs()
    assert (errors <= 0.07 * expected.abs() + 2.0**-10 * rows.scale + 2e-2).all()  # 2^-4, 16 bits, and 14 of sums
    assert errors.norm() < 0.03 * expected.norm()  # 0.026 with any scale that loses nothing
    assert rows.largest is None or rows.largest == rows.scale.max()


@on_hopper
@both_forms
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_fp8(shape, alone, tanh):
    inputs, weight, bias, gradient = made(*shape)
    n_tokens, hidden_size, inner_size = shape
    inputs[:, 3] *= 20  # as some hidden units of trained models are
    inputs[0] = 0  # a row of zeros, whose result is the bias
    layer = torch.nn.Linear(hidden_size, inner_size, device=DEVICE)
    layer.weight.data, layer.bias.data = weight.float(), bias.float()
    (first,) = prepare([layer], torch.bfloat16, to_fp8=True)
    inputs_rows, rows = fp8.quantize_rows(inputs), room(n_tokens, inner_size, alone)
    inner, outputs = gelu_linear(None, first, inputs_rows, rows, tanh)
    quantized = fp8.Weight(*first.weight)
    expected_inner = exact(inputs_rows) @ (quantized.rows.double() * quantized.scale[0]).T + bias
    torch.testing.assert_close(inner.double(), expected_inner, atol=3e-2, rtol=2**-8)  # sums have some 14 bits
    leaf = inner.double().requires_grad_()
    expected = F.gelu(leaf, approximate="tanh" if tanh else "none")
    assert (outputs is None) == alone
    if not alone:
        torch.testing.assert_close(outputs.double(), expected.detach(), atol=2e-5, rtol=2**-8 + 5e-4)
    reach = 1.28 * weight.double().norm(dim=1).max()
    bound = reach * inputs.double().norm(dim=1) + 1.28 * bias.double().abs().max()
    assert_quantized(rows, expected.detach(), bound)

    (last,) = fp8.quantize_weights([weight.T.float().contiguous()])
    gradient_rows, rows = fp8.quantize_rows(gradient), room(n_tokens, inner_size, alone)
    result, sums = gelu_input_gradient(None, last, gradient_rows, inner, rows, tanh)
    expected.backward(exact(gradient_rows) @ (last.rows.double() * last.scale[0]))
    assert (result is None) == alone
    if not alone:
        torch.testing.assert_close(result.double(), leaf.grad, atol=2e-2, rtol=2.5 * 2**-8)
    assert_quantized(rows, leaf.grad, reach * gradient.double().norm(dim=1))
    spread = leaf.grad.square().sum(0).sqrt()
    assert ((sums.double() - leaf.grad.sum(0)).abs() <= 2e-2 * spread + 2e-2).all()
    again = room(n_tokens, inner_size, alone)
    _, sums_again = gelu_input_gradient(None, last, gradient_rows, inner, again, tanh)
    assert torch.equal(again.values.view(torch.uint8), rows.values.view(torch.uint8))
    assert torch.equal(sums_again, sums)


@on_hopper
def test_in_a_cuda_graph():
    inputs, weight, bias, gradient = made(300, 128, 512)
    first, last = Prepared((weight,), bias), (weight.T.contiguous(),)

    def both():
        inner, outputs = gelu_linear(inputs, first, None, None, tanh=False)
        return inner, outputs, *gelu_input_gradient(gradient, last, None, inner, None, tanh=False)

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


def block_and_gradients(inputs, gradient, *in_fp8):
    torch.manual_seed(0)
    with inputs.device:
        first, last, norm = torch.nn.Linear(128, 512), torch.nn.Linear(512, 128), torch.nn.LayerNorm(128)
    prepared = [prepare([layer], inputs.dtype, *in_fp8)[0] for layer in (first, last)]
    leaf = inputs.clone().requires_grad_()
    result = fused_block(Hidden(leaf, leaf), first, Gelu(), last, norm, prepared, dropout_p=0.0)
    result.states.backward(gradient)
    parameters = (*first.parameters(), *last.parameters(), *norm.parameters())
    return [result.states.detach(), leaf.grad, *(parameter.grad for parameter in parameters)]


@on_hopper
@pytest.mark.parametrize(("in_fp8", "bound"), [((False, False), 5e-3), ((True, False), 3e-2), ((True, True), 3e-2)])
def test_a_block_computes_the_same_with_it_as_without(monkeypatch, in_fp8, bound):
    """But for roundings: bf16's is 2e-3, e4m3's 2.6e-2."""
    inputs, *_, gradient = made(300, 128, 512)
    uses = []
    monkeypatch.setattr(blocks, "has_epilogue", lambda *given: uses.append(given) or has_epilogue(*given))
    found = block_and_gradients(inputs, gradient, *in_fp8)
    assert [sizes for _, *sizes in uses] == [[128, 512]] * 2
    monkeypatch.setattr(blocks, "has_epilogue", lambda *given: False)
    for actual, expected in zip(found, block_and_gradients(inputs, gradient, *in_fp8), strict=True):
        error = (actual.double() - expected.double()).norm() / expected.double().norm()
        assert error < bound
