"""kernels/fused/fp8.py: values in fp8 stay within its rounding, and matmuls within that of their factors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.fused.fp8 import (
    Rows,
    empty_rows,
    matmul,
    product_over_rows,
    quantize_rows,
    quantize_weights,
    transposed,
)

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
    exponents = [math.ceil(math.log2(value / 448)) for (value,) in largest.double().tolist()]
    assert rows.scale.tolist() == [
        [2.0**exponent] for exponent in exponents
    ]  # the smallest power of two in whose range the row is
    assert_within_rounding(rows.values.float() * rows.scale, matrix, 2 * largest)
    torch.testing.assert_close(rows.norm, matrix.norm(dim=1))


def with_largest(matrix: torch.Tensor) -> Rows:
    return quantize_rows(matrix, empty_rows(*matrix.shape, DEVICE, torch.zeros(1, device=DEVICE)))


@settings(max_examples=20)
@given(st.integers(1, 300), st.integers(1, 200), st.integers(-8, 8))
def test_the_transpose_moves_exponents_and_rounds_nothing_again(n_rows, n_columns, exponent):
    matrix = draw(n_rows, n_columns, seed=n_rows * n_columns)
    matrix *= 2.0 ** (exponent * torch.rand(n_rows, 1, generator=torch.Generator().manual_seed(1))).to(DEVICE)
    rows = with_largest(matrix)
    assert rows.largest == rows.scale.max()
    columns = transposed(rows)
    assert columns.shape == (n_columns, -(-n_rows // 16) * 16)
    assert not columns[:, n_rows:].float().any()
    exact = rows.values.double() * rows.scale
    found = columns[:, :n_rows].T.double() * rows.largest
    is_large = exact.abs() >= 2.0**-6 * rows.largest  # normal numbers of e4m3 under the one scale
    assert torch.equal(found[is_large], exact[is_large])
    assert ((found - exact).abs() <= 2.0**-10 * rows.largest).all()


@pytest.mark.parametrize("shape", [(64, 32, 48), (50, 16, 96), (600, 48, 16)])
def test_a_product_over_rows_is_that_of_the_other_matmuls_factors(shape):
    n_rows, n_left, n_right = shape
    left, right = (with_largest(draw(n_rows, n, seed=n)) for n in (n_left, n_right))
    exact = [factor.values.double() * factor.scale for factor in (left, right)]
    product = product_over_rows(left, right)
    assert product.dtype == torch.float32
    torch.testing.assert_close(product.double(), exact[0].T @ exact[1], rtol=1e-4, atol=2e-2)


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
        torch.testing.assert_close(quantized.row_norm, weight.norm(dim=1).max().expand(4))
        torch.testing.assert_close(quantized.column_norm, weight.norm(dim=0).max().expand(4))


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
