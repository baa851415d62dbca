"""Ratios and verdicts against printed tables of t and Welch's own formula worked out by hand."""

import math

import pytest
from made_points import point, sweep, write

from benchmark.reports.compare import comparison_table, quantile_of_t, ratio_interval
from benchmark.reports.data import read_results


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


def test_repeats_without_any_scatter_have_an_interval_of_no_width():
    assert ratio_interval([1.0, 1.0], [2.0, 2.0]) == pytest.approx((2.0, 2.0))


def compared(*folders):
    """The rows, and the notes without the method."""
    table = comparison_table(*read_results(folders))
    return table.rows, table.notes[:-1]


@pytest.mark.parametrize(
    ("second", "ratio", "verdict"),
    [
        ([200.0, 201.0, 202.0], "1.990", "b is faster"),
        ([50.0, 50.5, 51.0], "0.500", "b is slower"),
        ([99.0, 101.0, 103.0], "1.000", "no difference shown"),
        ([150.0], "1.485", "single measurements: nothing can be said of chance"),
    ],
)
def test_what_is_said(tmp_path, second, ratio, verdict):
    [row], _ = compared(sweep(tmp_path / "a", [100.0, 101.0, 102.0]), sweep(tmp_path / "b", second))
    assert (row["a"], row["ratio"], row["verdict"]) == ("101.0", ratio, verdict)


def test_what_differs_throughout_is_what_is_compared(tmp_path):
    [row], told = compared(sweep(tmp_path / "a", [1.0, 1.0]), sweep(tmp_path / "b", [2.0, 2.0], compile=True))
    assert row["ratio"] == "2.000"
    assert told == ["compile is False in a and True in b."]


@pytest.mark.parametrize(
    "other", [{"max_seq_length": 512}, {"workload": "squad"}, {"model": "base"}, {"lengths": "evenly around 64"}]
)
def test_rates_of_different_work_are_never_compared(tmp_path, other):
    rows, told = compared(sweep(tmp_path / "a", [1.0, 1.0]), sweep(tmp_path / "b", [2.0, 2.0], **other))
    assert rows == []
    assert told == ["1 configuration of a alone; not compared.", "1 configuration of b alone; not compared."]


def test_precisions_that_are_compared_are_both_named(tmp_path):
    _, told = compared(sweep(tmp_path / "a", [1.0, 1.1]), sweep(tmp_path / "b", [2.0, 2.2], precision="fp16"))
    assert told == ["precision is bf16 in a and fp16 in b."]


def test_configurations_that_only_one_has_are_not_compared(tmp_path):
    both = [point(1.0, batch_size=8), point(1.0, batch_size=16)]
    rows, told = compared(write(tmp_path / "a", both), write(tmp_path / "b", both[:1]))
    assert [row["batch"] for row in rows] == ["8"]
    assert told == ["1 configuration of a alone; not compared."]


def test_out_of_memory_and_wrong_runs_have_no_verdict(tmp_path):
    first = sweep(tmp_path / "a", [1.0, 1.1])
    [full], _ = compared(first, write(tmp_path / "b", [point(status="out_of_memory")]))
    [wrong], _ = compared(first, write(tmp_path / "c", [point(9.0, measured={"loss_problem": "no number"})]))
    assert (full["verdict"], full["b"], full["ratio"]) == ("b: out of memory", "-", "-")
    assert wrong["verdict"] == "c: wrong"
