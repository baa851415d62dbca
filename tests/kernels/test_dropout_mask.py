"""kernels/dropout_mask.py: the rate is the one asked for, elements are independent, a seed says it all."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kernels.dropout_mask import drop_threshold, is_kept, row_key

ROWS, COLUMNS, ROWS_PER_PROGRAM = 2048, 1024, 128
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@triton.jit
def write_mask(mask_ptr, seed_ptr, threshold, n_columns: tl.constexpr, rows_per_program: tl.constexpr):
    rows = tl.program_id(0) * rows_per_program + tl.arange(0, rows_per_program)
    columns = tl.arange(0, n_columns)
    key = row_key(tl.load(seed_ptr), rows)
    kept = is_kept(key, n_columns, threshold)
    tl.store(mask_ptr + rows[:, None] * n_columns + columns[None, :], kept.to(tl.int8))


def dropped(seed: int, probability: float) -> np.ndarray:
    mask = torch.full((ROWS, COLUMNS), 7, dtype=torch.int8, device=DEVICE)
    seeds = torch.tensor([seed], device=DEVICE)
    write_mask[(ROWS // ROWS_PER_PROGRAM,)](
        mask, seeds, drop_threshold(probability), n_columns=COLUMNS, rows_per_program=ROWS_PER_PROGRAM
    )
    assert set(mask.unique().tolist()) <= {0, 1}
    return 1 - mask.cpu().numpy().astype(np.float64)


def standard_errors(values: np.ndarray, probability: float) -> float:
    """How far the mean of products of centred, independent masks lies from zero."""
    return abs(values.mean()) * values.size**0.5 / (probability * (1 - probability))


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9])
def test_the_rate_is_the_one_asked_for(probability):
    deviation = (probability * (1 - probability) / (ROWS * COLUMNS)) ** 0.5
    assert abs(dropped(3, probability).mean() - probability) <= 5 * deviation


def test_neighbours_rows_and_seeds_are_independent():
    first, second = dropped(2**61 + 1, 0.1) - 0.1, dropped(2**61 + 2, 0.1) - 0.1
    for distance in (1, 2, 16):
        assert standard_errors(first[:, distance:] * first[:, :-distance], 0.1) < 5
        assert standard_errors(first[distance:] * first[:-distance], 0.1) < 5
    assert standard_errors(first * second, 0.1) < 5


def test_rows_and_columns_differ_no_more_than_by_chance():
    mask = dropped(11, 0.1)
    # The variance of a mean of n independent elements is p (1 - p) / n; over ~1,000 of them, within 25 %.
    assert mask.mean(0).var() * ROWS / 0.09 == pytest.approx(1, abs=0.25)
    assert mask.mean(1).var() * COLUMNS / 0.09 == pytest.approx(1, abs=0.25)


def test_a_seed_says_it_all():
    np.testing.assert_array_equal(dropped(5, 0.1), dropped(5, 0.1))
    assert (dropped(5, 0.1) != dropped(6, 0.1)).any()
