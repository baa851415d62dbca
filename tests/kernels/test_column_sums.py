"""kernels/column_sums.py against sums in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.column_sums import column_sums
from kernels.tuning import DEFAULTS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCK_ROWS = DEFAULTS["column_sums"]["block_rows"]


def random_partial(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def check(sums: torch.Tensor, partial: torch.Tensor) -> None:
    assert sums.dtype == torch.float32
    # Of n numbers, sums in fp32 are off by n roundings of what has been added up so far, at the very most.
    bound = float(partial.abs().sum(-2).max()) * 2**-24 * (2 + partial.shape[-2])
    torch.testing.assert_close(sums.double(), partial.double().sum(-2), atol=bound, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3 * BLOCK_ROWS), st.integers(1, 70))
def test_any_shape(n_rows, n_columns):
    partial = random_partial(n_rows, n_columns, seed=n_rows * n_columns)
    check(column_sums(partial), partial)


@pytest.mark.parametrize("n_rows", [0, 1, BLOCK_ROWS, BLOCK_ROWS + 1])
def test_every_row_counts_once(n_rows):
    weights = 2 ** torch.arange(20.0, device=DEVICE)  # whole numbers: sums are exact
    assert torch.equal(column_sums(weights.expand(n_rows, 20).contiguous()), n_rows * weights)


def test_several_matrices_and_their_places():
    partial = random_partial(2, 37, 24)
    check(column_sums(partial), partial)
    room = torch.full((4, 24), 7.0, device=DEVICE)
    assert column_sums(partial, out=room[:3:2]).data_ptr() == room.data_ptr()
    check(room[:3:2], partial)
    assert (room[1::2] == 7).all()
    column_sums(partial[0], out=room[1])
    check(room[1], partial[0])
    assert (room[3] == 7).all()


def test_the_same_input_gives_the_same_bits():
    partial = random_partial(1000, 64)
    assert torch.equal(column_sums(partial), column_sums(partial.clone()))
