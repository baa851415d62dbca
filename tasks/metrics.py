"""How well classes and numbers are predicted, by the definitions; at most 1, and 0 where these divide by zero."""

import math
from types import MappingProxyType

import numpy as np


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The share of (N,) classes that are right."""
    return float(np.mean(predicted == labels))


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The harmonic mean of precision and recall of class 1."""
    n_ones = int(np.sum(predicted == 1) + np.sum(labels == 1))
    return 2 * int(np.sum((predicted == 1) & (labels == 1))) / n_ones if n_ones else 0.0


def pearson(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The linear correlation of (N,) numbers. Of two classes, 0 and 1, it is Matthews's."""
    if not (np.ptp(predicted) and np.ptp(labels)):  # before rounding makes of a constant something that varies
        return 0.0
    x, y = (values.astype(np.float64) - np.mean(values, dtype=np.float64) for values in (predicted, labels))
    scale = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
    return float(x @ y) / scale if scale else 0.0


def spearman(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The linear correlation of ranks; equal numbers share the mean of theirs."""
    return pearson(_ranks(predicted), _ranks(labels))


METRICS = MappingProxyType(
    {"accuracy": accuracy, "f1": f1, "matthews": pearson, "pearson": pearson, "spearman": spearman}
)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
