"""kernels/fused/fp8.py: values in fp8 stay within its rounding, and matmuls within that of their factors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.fused.fp8 import Rows, matmul, quantize_rows, quantize_weights

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDING = 2**-4  # of three bits of mantissa
SUBNORMAL = 2**-10 / 448  # half the spacing at zero, of the largest value of a row


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def assert_within_rounding(actual, expected, largest):
    assert ((actual - expected).abs() <= ROUNDING * expected.abs() + SUBNORMAL * largest).all()


@settings(max_examples=10)
@given(st.integers(1, 40), st.integers(1, 300), st.floats(-20, 20))
def test_rows(n_rows, n_columns, exponent):
    matrix = draw(n_rows, n_columns, seed=n_rows * n_columns) * 2.0**exponent
    matrix[0] *= 1e-3  # rows of very different size do not disturb each other
    rows = quantize_rows(matrix)
    largest = matrix.abs().amax(1, keepdim=True)
    torch.testing.assert_close(rows.scale * 448, largest)
    assert_within_rounding(rows.values.float() * rows.scale, matrix, largest)


def test_zeros_and_16_bits():
    matrix = torch.zeros(3, 32, device=DEVICE, dtype=torch.bfloat16)
    matrix[1] = 2.0
    rows = quantize_rows(matrix)
    assert (rows.values.float() * rows.scale).tolist() == matrix.tolist()


@pytest.mark.parametrize("shape", [(16, 16), (80, 48), (64, 200)])
def test_weights_and_their_transposes(shape):
    weights = [draw(*shape, seed=seed) * 2.0**exponent for seed, exponent in enumerate((0, 9, -9))]
    weights.append(torch.zeros(shape, device=DEVICE))
    for weight, quantized in zip(weights, quantize_weights(weights), strict=True):
        assert torch.equal(quantized.rows.float(), quantized.columns.float().T)
        assert quantized.scale.shape == (max(shape),)
        assert len(quantized.scale.unique()) == 1
        torch.testing.assert_close(quantized.scale[0] * 448, weight.abs().max())
        assert_within_rounding(quantized.rows.float() * quantized.scale[0], weight, weight.abs().max())


def test_products_are_those_of_the_quantized_factors():
    """Exact up to the rounding of the result: what fp8 costs is in the factors."""
    weight, bias = draw(48, 80), draw(48, seed=1, dtype=torch.bfloat16)
    inputs, gradient = draw(33, 80, seed=2), draw(33, 48, seed=3)
    (quantized,) = quantize_weights([weight])
    exact_weight = quantized.rows.double() * quantized.scale[0]

    def exact(rows: Rows):
        return rows.values.double() * rows.scale

    rows = quantize_rows(inputs)
    product = matmul(rows, quantized.rows, quantized.scale, torch.bfloat16, bias)
    torch.testing.assert_close(product.double(), exact(rows) @ exact_weight.T + bias, rtol=2**-7, atol=2e-2)
    rows = quantize_rows(gradient)
    product = matmul(rows, quantized.columns, quantized.scale, torch.bfloat16)
    torch.testing.assert_close(product.double(), exact(rows) @ exact_weight, rtol=2**-7, atol=2e-2)
