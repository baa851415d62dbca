"""kernels/dropout_mask.py: the rate is the one asked for, elements are independent, a seed says it all."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kernels.dropout_mask import (
    FACTOR_0,
    FACTOR_1,
    FACTOR_2,
    FACTOR_3,
    drop_threshold,
    is_kept,
    key_from,
    row_key,
)

ROWS, COLUMNS, ROWS_PER_PROGRAM = 2048, 1024, 128
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@triton.jit
def write_mask(mask_ptr, seed_ptr, threshold, n_columns: tl.constexpr, rows_per_program: tl.constexpr):
    rows = tl.program_id(0) * rows_per_program + tl.arange(0, rows_per_program)
    columns = tl.arange(0, n_columns)
    key = row_key(tl.load(seed_ptr), rows)
    kept = is_kept(key, n_columns, threshold)
    tl.store(mask_ptr + rows[:, None] * n_columns + columns[None, :], kept.to(tl.int8))


@triton.jit
def write_mask_of_keys(mask_ptr, keys_ptr, first_column, threshold, n_rows: tl.constexpr, n_columns: tl.constexpr):
    rows = tl.arange(0, n_rows)
    columns = tl.arange(0, n_columns)
    key = key_from(tl.load(keys_ptr + rows).to(tl.uint32, bitcast=True), first_column)
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
    for distance in (1, 2, 8, 16, 24, 32):
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


def defined_as(key: int, column: int) -> int:
    """The number that decides about an element: SplitMix, the 32-bit hash, the column's factor."""
    first = column // 32 * 32 + column % 8
    x = (key + first * 0x9E3779B9) % 2**32
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    return (x ^ x >> 15) * 0x846CA68B * 0x93D765DD ** (column // 8 % 4) % 2**32


@pytest.mark.parametrize(("first_column", "n_columns"), [(0, 4), (0, 8), (0, 16), (0, 128), (96, 32)])
def test_the_mask_is_the_one_defined_in_blocks_of_any_width(first_column, n_columns):
    keys = [0, 1, 2**31 + 5, 2**32 - 1]
    expected = [[defined_as(key, first_column + column) >= 2**31 for column in range(n_columns)] for key in keys]
    mask = torch.empty(len(keys), n_columns, dtype=torch.int8, device=DEVICE)
    keys_there = torch.tensor(np.array(keys, dtype=np.uint32).view(np.int32), device=DEVICE)
    write_mask_of_keys[(1,)](mask, keys_there, first_column, drop_threshold(0.5), n_rows=len(keys), n_columns=n_columns)
    assert mask.bool().tolist() == expected


def n_lattice_points(multiplier: int, threshold: int) -> int:
    """How many of the 2^32 numbers x have x < threshold and multiplier * x % 2^32 < threshold."""

    def floor_sum(n: int, modulus: int, factor: int, summand: int) -> int:
        """The sum of (factor * i + summand) // modulus over the first n numbers, as Euclid's algorithm finds it."""
        if n == 0:
            return 0
        whole = n * (n - 1) // 2 * (factor // modulus) + n * (summand // modulus)
        factor, summand = factor % modulus, summand % modulus
        above, rest = divmod(factor * n + summand, modulus)
        return whole + (floor_sum(above, factor, modulus, rest) if above else 0)

    return floor_sum(threshold, 2**32, multiplier, 2**32) - floor_sum(threshold, 2**32, multiplier, 2**32 - threshold)


def test_lattice_points_are_counted_right():
    numbers = np.arange(2**20, dtype=np.uint32)
    for multiplier in (1, 3, 0x93D765DD):
        assert n_lattice_points(multiplier, 2**20) == (numbers * np.uint32(multiplier) < 2**20).sum()


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_two_that_share_a_number_are_both_dropped_as_often_as_independent_ones(probability):
    factors = [factor.value for factor in (FACTOR_0, FACTOR_1, FACTOR_2, FACTOR_3)]
    for one in range(4):
        for two in range(one):
            ratio = factors[one] * pow(factors[two], -1, 2**32) % 2**32
            share = n_lattice_points(ratio, drop_threshold(probability)) / 2**32
            assert share == pytest.approx(probability**2, rel=1e-6)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_four_that_share_a_number_are_dropped_in_any_pattern(probability):
    mask = dropped(17, probability).astype(int).reshape(ROWS, COLUMNS // 32, 4, 8)
    counts = np.bincount(np.einsum("rbmc,m->rbc", mask, [1, 2, 4, 8]).ravel(), minlength=16)
    n_dropped = np.array([pattern.bit_count() for pattern in range(16)])
    expected = counts.sum() * probability**n_dropped * (1 - probability) ** (4 - n_dropped)
    # Chi-square with 15 degrees of freedom is above 55 once in 400,000 times.
    assert ((counts - expected) ** 2 / expected).sum() < 55
