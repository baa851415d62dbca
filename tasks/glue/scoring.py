"""From a model's outputs to predictions, GLUE's metrics by their definitions, and the files of a submission.

Metrics are at most 1, and 0 where the definition divides by zero.
"""

import math
from pathlib import Path
from types import MappingProxyType

import numpy as np

from common.errors import UserError
from file_utils import atomic_write
from tasks.glue.benchmarks import Benchmark
from tasks.glue.examples import HIGHEST_SCORE


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


def predictions_of(outputs: np.ndarray, benchmark: Benchmark) -> np.ndarray:
    """(N,) classes, or scores, for (N, n_outputs) fp32. Raises UserError where outputs are infinite or not numbers."""
    if n_wrong := int((~np.isfinite(outputs)).any(axis=1).sum()):
        raise UserError(
            f"the model's outputs for {n_wrong:,} of {len(outputs):,} sequences are infinite or not numbers",
            "predict with --precision bf16 or fp32, or take other weights",
        )
    return outputs.argmax(axis=1) if benchmark.labels else outputs[:, 0]


def write_submission(path: Path, predicted: np.ndarray, benchmark: Benchmark) -> None:
    """One of the TSV files that https://gluebenchmark.com takes: the index of each row of the test file, and words."""
    if benchmark.labels:
        words = [benchmark.labels[label] for label in predicted]
    else:
        words = [f"{score:.3f}" for score in np.clip(predicted, 0, HIGHEST_SCORE)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write("index\tprediction\n")
        file.writelines(f"{index}\t{word}\n" for index, word in enumerate(words))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
