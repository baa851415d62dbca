"""Bounds that chance does not cross, against exact sums of the binomial distribution."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.masked_lm.shares import CHANCE, exceeds, unknown_problem


def tail(number, of, share):
    """How likely `number` or more of `of` draws are, exactly."""
    p = Fraction(share)
    return sum(math.comb(of, k) * p**k * (1 - p) ** (of - k) for k in range(number, of + 1))


@given(st.integers(1, 120), st.sampled_from([0.02, 0.25, 0.5, 0.65]), st.data())
def test_chance_crosses_no_bound(of, share, data):
    number = data.draw(st.integers(0, of))
    likely = tail(number, of, share)
    if exceeds(number, of, share):
        assert likely < CHANCE
    else:  # the bound is no more than a factor of its exponent's polynomial off
        assert likely > CHANCE / (10 * math.sqrt(of)) or number <= of * share


@pytest.mark.parametrize(
    ("number", "of", "is_much"), [(0, 0, False), (26, 26, False), (27, 27, True), (500, 1000, False)]
)
def test_half(number, of, is_much):
    assert exceeds(number, of, 0.5) == is_much


def test_only_a_vocabulary_that_does_not_fit_is_a_problem():
    assert unknown_problem(0, 0, True) is None
    assert unknown_problem(5, 50, True) is None  # a name that is repeated in a short text
    assert unknown_problem(5_000, 1_000_000, True) is None
    assert unknown_problem(60_000, 1_000_000, True)
