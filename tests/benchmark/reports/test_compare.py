"""Ratios and significance against published tables, Welch's own formula worked out by hand, and enumeration."""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import pytest
from made_points import point, sweep, write

from benchmark.reports.compare import compare, permutation_p, quantile_of_t, ratio_interval
from benchmark.reports.data import read_results
from benchmark.reports.tables import comparison_tables

RATES = st.lists(st.floats(1.0, 1e4), min_size=1, max_size=4)


# Two-sided 95 % and 99 %, as any printed table of Student's t has them.
@pytest.mark.parametrize(
    ("probability", "degrees", "t"),
    [(0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 4, 2.776), (0.95, 10, 2.228), (0.99, 3, 5.841), (0.99, 30, 2.750)],
)
def test_quantiles_are_those_of_printed_tables(probability, degrees, t):
    assert quantile_of_t(probability, degrees) == pytest.approx(t, abs=6e-4)


def test_an_interval_worked_out_by_hand():
    # Logs are 0 and ln 1.02 against the same moved by ln 1.1: both variances are ln(1.02)^2 / 2, so the error is
    # ln(1.02) / sqrt(2) at two degrees of freedom, and t is 4.303.
    first, second = [100.0, 102.0], [110.0, 112.2]
    reach = 4.3027 * math.log(1.02) / math.sqrt(2)
    low, high = ratio_interval(first, second)
    assert low == pytest.approx(1.1 * math.exp(-reach), rel=1e-4)
    assert high == pytest.approx(1.1 * math.exp(reach), rel=1e-4)


def test_single_measurements_have_no_interval():
    assert ratio_interval([1.0], [2.0, 3.0]) is None


@hypothesis.given(RATES, RATES)
def test_the_permutation_test_is_that_of_a_naive_loop(first, second):
    logs = [math.log(rate) for rate in first + second]
    places = range(len(logs))

    def difference(chosen):
        rest = [place for place in places if place not in chosen]
        return abs(sum(logs[place] for place in chosen) / len(chosen) - sum(logs[place] for place in rest) / len(rest))

    seen = difference(tuple(range(len(first))))
    groupings = list(itertools.combinations(places, len(first)))
    at_least = sum(difference(chosen) >= seen - 1e-9 for chosen in groupings)
    assert permutation_p(first, second)[0] == pytest.approx(at_least / len(groupings))


def test_three_and_three_repeats_cannot_say_more_than_a_tenth():
    assert permutation_p([1, 2, 3], [10, 11, 12]) == (pytest.approx(0.1), pytest.approx(0.1))


def compared(tmp_path, first, second, **changes):
    results = read_results([sweep(tmp_path / "a", first), sweep(tmp_path / "b", second, **changes)])
    return compare(*results)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ([200.0, 201.0, 202.0], "b is faster"),
        ([50.0, 50.5, 51.0], "b is slower"),
        ([99.0, 101.0, 103.0], "no difference shown"),
        ([150.0], "single measurements: nothing can be said of chance"),
    ],
)
def test_what_is_said(tmp_path, second, words):
    [comparison], _ = compared(tmp_path, [100.0, 101.0, 102.0], second)
    assert comparison.words == words
    assert comparison.ratio == pytest.approx(sorted(second)[len(second) // 2] / 101)


def test_what_differs_throughout_is_what_is_compared(tmp_path):
    [comparison], told = compared(tmp_path, [1.0, 1.0], [2.0, 2.0], compile=True)
    assert comparison.ratio == 2
    assert told == ["compile is false in a and true in b."]


@pytest.mark.parametrize(
    "other", [{"max_seq_length": 512}, {"workload": "squad"}, {"model": "base"}, {"lengths": "evenly around 64"}]
)
def test_rates_of_different_work_are_never_compared(tmp_path, other):
    found, told = compared(tmp_path, [1.0, 1.0], [2.0, 2.0], **other)
    assert found == []
    assert told == ["1 configuration of a alone; not compared.", "1 configuration of b alone; not compared."]


def test_precisions_that_are_compared_are_both_named(tmp_path):
    results = read_results([sweep(tmp_path / "a", [1.0, 1.1]), sweep(tmp_path / "b", [2.0, 2.2], precision="fp16")])
    [table] = comparison_tables(results)
    assert table.rows[0][0].endswith("bf16 / fp16")


def test_configurations_that_only_one_has_are_not_compared(tmp_path):
    both = [point(1.0, batch_size=8), point(1.0, batch_size=16)]
    results = read_results([write(tmp_path / "a", both), write(tmp_path / "b", both[:1])])
    found, told = compare(*results)
    assert [comparison.first.batch_size for comparison in found] == [8]
    assert told == ["1 configuration of a alone; not compared."]


def test_out_of_memory_and_wrong_runs_have_no_verdict(tmp_path):
    none = [point(status="out_of_memory")]
    wrong = [point(9.0, measured={"loss_problem": "the loss is no number"})]
    results = read_results(
        [sweep(tmp_path / "a", [1.0, 1.1]), write(tmp_path / "b", none), write(tmp_path / "c", wrong)]
    )
    assert compare(results[0], results[1])[0][0].words == "b: out of memory"
    assert compare(results[0], results[2])[0][0].words == "not comparable: c trained wrongly"
