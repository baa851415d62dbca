"""Lengths that a measurement can have."""

import pytest

from data.loading.synthetic import synthetic_problem


@pytest.mark.parametrize(
    ("lengths", "complaint"),
    [
        ("full", None),
        ("128", None),
        ("5", None),
        ("4", "no mean length between 5 and"),
        ("129", "no mean length"),
        ("nan", "no mean"),
        ("long", "'long'"),
    ],
)
def test_lengths_that_cannot_be_are_said(lengths, complaint):
    problem = synthetic_problem(lengths, 128)
    assert complaint in str(problem) if complaint else problem is None


def test_a_problem_names_the_flags_it_is_told():
    problem = synthetic_problem(200.0, 128, "--mean_length", "--lengths")
    assert str(problem) == "--mean_length 200 is no mean length between 5 and --lengths 128."
