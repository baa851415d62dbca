"""Metrics against scikit-learn's and SciPy's, and by hand where those have none."""

import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.metrics import METRICS, accuracy, f1, pearson, spearman

CLASSES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)
# Scores repeat, and predictions are fp32.
NUMBERS = st.lists(
    st.tuples(st.floats(-1e3, 1e3, width=32) | st.integers(0, 3).map(float), st.integers(0, 25).map(lambda n: n / 5)),
    min_size=2,
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(CLASSES)
def test_classes(pairs):
    predicted, labels = np.array(pairs).T
    assert accuracy(predicted, labels) == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert f1(predicted, labels) == pytest.approx(sklearn.metrics.f1_score(labels, predicted, zero_division=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class
        expected = sklearn.metrics.matthews_corrcoef(labels, predicted)
    assert METRICS["matthews"](predicted, labels) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(NUMBERS)
def test_numbers(pairs):
    predicted, labels = np.array(pairs, dtype=np.float32).T
    if len(set(predicted.tolist())) < 2 or len(set(labels.tolist())) < 2:
        assert pearson(predicted, labels) == spearman(predicted, labels) == 0
        return
    assert spearman(predicted, labels) == pytest.approx(scipy.stats.spearmanr(predicted, labels).statistic, abs=1e-9)
    expected = scipy.stats.pearsonr(predicted.astype(np.float64), labels.astype(np.float64)).statistic
    assert pearson(predicted, labels) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", METRICS)
def test_a_constant_prediction(name):
    labels, constant = np.array([0, 1, 1, 0, 1]), np.full(5, 1)
    scores = {"accuracy": 0.6, "f1": 0.75}
    assert METRICS[name](constant, labels) == pytest.approx(scores.get(name, 0.0))
    # 0.1 in fp32 is no sum of its fifth parts, and its mean not itself.
    assert METRICS["pearson"](np.full(5, 0.1, dtype=np.float32), labels) == 0.0


def test_by_hand():
    predicted, labels = np.array([1, 1, 0, 1, 0, 0]), np.array([1, 0, 1, 1, 0, 0])
    assert f1(predicted, labels) == pytest.approx(4 / 6)  # 2 right ones, 1 wrong, 1 missed
    assert METRICS["matthews"](predicted, labels) == pytest.approx((2 * 2 - 1) / 9)
    assert f1(np.zeros(3), np.zeros(3)) == 0.0
    assert spearman(np.array([3.0, 1.0, 2.0]), np.array([9.0, 0.0, 8.0])) == pytest.approx(1)
