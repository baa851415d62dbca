"""From a model's outputs to predictions, and to the files of a submission to GLUE."""

from pathlib import Path

import numpy as np

from common.errors import UserError
from file_utils import atomic_write
from tasks.glue.benchmarks import Benchmark
from tasks.glue.examples import HIGHEST_SCORE


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
