"""kernels/fused/dropout_add_norm.py: values and gradients against PyTorch's in fp64, the mask read off the output."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.fused.dropout_add_norm import dropout_add_norm_, dropout_add_norm_backward
from kernels.fused.fp8 import empty_rows, quantize_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-12
SEED = torch.tensor([2**61 + 17], device=DEVICE)


def inputs(n_rows: int, n_columns: int, dtype: torch.dtype, n_gradients: int = 1):
    generator = torch.Generator().manual_seed(n_rows * 1000 + n_columns)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE)

    hidden, residual, *gradients = (draw(n_rows, n_columns).to(dtype) for _ in range(2 + n_gradients))
    return hidden, residual, gradients, 1 + 0.5 * draw(n_columns), draw(n_columns)


def kept(shape: tuple[int, int], dropout_p: float) -> torch.Tensor:
    """The mask: what is left of ones without a residual."""
    ones = torch.ones(shape, device=DEVICE)
    weight = torch.ones(shape[1], device=DEVICE)
    dropout_add_norm_(ones, torch.zeros_like(ones), weight, weight, EPS, dropout_p, SEED)
    return ones != 0


def reference(hidden, residual, gradients, weight, bias, mask, dropout_p):
    """Output, and the gradients by hidden states, residual, weight and bias, in fp64 by autograd."""
    leaves = [tensor.double().requires_grad_() for tensor in (hidden, residual, weight, bias)]
    summed = leaves[0] * mask / (1 - dropout_p) + leaves[1]
    output = F.layer_norm(summed, summed.shape[1:], *leaves[2:], EPS)
    return summed, output, *torch.autograd.grad(output, leaves, sum(gradient.double() for gradient in gradients))


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


def check(
    n_rows: int, n_columns: int, dtype: torch.dtype, dropout_p: float, tolerance: float, n_gradients: int = 1
) -> None:
    hidden, residual, gradients, weight, bias = inputs(n_rows, n_columns, dtype, n_gradients)
    mask = kept(hidden.shape, dropout_p)
    expected = reference(hidden, residual, gradients, weight, bias, mask, dropout_p)
    summed = hidden.clone()
    output, mean, scale = dropout_add_norm_(summed, residual, weight, bias, EPS, dropout_p, SEED)
    residual_gradient, hidden_gradient, sums = dropout_add_norm_backward(
        gradients, summed, mean, scale, weight, dropout_p, SEED
    )
    actual = (summed, output, hidden_gradient, residual_gradient, *sums)
    for got, wanted in zip(actual, (*expected, expected[2].sum(0)), strict=True):
        assert error(got, wanted) < tolerance


@pytest.mark.parametrize("n_gradients", [1, 2])
@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 8), (7, 24), (27, 1024)])
def test_values_and_gradients(shape, dropout_p, n_gradients):
    check(*shape, torch.float32, dropout_p, 1e-5, n_gradients)


@pytest.mark.parametrize("n_gradients", [1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_16_bits(dtype, tolerance, n_gradients):
    check(15, 256, dtype, 0.1, tolerance, n_gradients)


@settings(max_examples=6)
@given(st.integers(1, 70), st.integers(16, 150), st.floats(0, 0.8))  # of two columns, none may be nearly equal
@pytest.mark.slow
def test_any_shape(n_rows, n_columns, dropout_p):
    check(n_rows, n_columns, torch.float32, dropout_p, 1e-4)


def test_each_element_is_dropped_at_the_rate_and_by_itself():
    mask = kept((128, 1024), 0.1).double()
    assert abs(mask.mean().item() - 0.9) < 5 * (0.09 / mask.numel()) ** 0.5
    assert 0 < mask.mean(0).min() < mask.mean(0).max() < 1


def test_the_same_bits_every_time():
    hidden, residual, gradients, weight, bias = inputs(27, 256, torch.float32, 2)
    summed = hidden.clone()
    _, mean, scale = dropout_add_norm_(summed, residual, weight, bias, EPS, 0.1, SEED)
    first, second = (dropout_add_norm_backward(gradients, summed, mean, scale, weight, 0.1, SEED) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_fp8_beside(dropout_p):
    """Both directions' results as brought into fp8 by themselves, for rows and columns that fill no block.

    Where gradients are left in fp8 alone, they are the same.
    """
    hidden, residual, gradients, weight, bias = inputs(9, 72, torch.float32)
    output_rows, gradient_rows = (empty_rows(9, 72, DEVICE) for _ in range(2))
    output, mean, scale = dropout_add_norm_(hidden, residual, weight, bias, EPS, dropout_p, SEED, output_rows)
    given = gradients, hidden, mean, scale, weight, dropout_p, SEED
    residual_gradient, hidden_gradient, sums = dropout_add_norm_backward(*given, gradient_rows)
    for matrix, rows in ((output, output_rows), (hidden_gradient, gradient_rows)):
        expected = quantize_rows(matrix)
        torch.testing.assert_close(rows.scale, expected.scale)
        assert (rows.values.float() == expected.values.float()).float().mean() > 0.999  # but for ties
    alone = empty_rows(9, 72, DEVICE, torch.zeros(1, device=DEVICE))
    residual_alone, nothing, sums_alone = dropout_add_norm_backward(*given, alone)
    assert nothing is None
    same_values = (alone.values.float() == gradient_rows.values.float()).float().mean()
    if DEVICE == "cpu":
        assert torch.equal(residual_alone, residual_gradient)
        assert torch.equal(sums_alone, sums)
        assert same_values == 1
    else:  # other settings, whose thread blocks add in another order
        torch.testing.assert_close(residual_alone, residual_gradient)
        torch.testing.assert_close(sums_alone, sums)
        assert same_values > 0.999
    assert alone.largest == alone.scale.max()
