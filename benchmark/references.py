"""Published throughputs to draw beside measured ones, each with where it comes from and how it differs.

None of them was measured here, and none under the conditions of a chart that it is drawn in: another GPU, another
precision or other software. They say where others stand, not who wins, so their labels name the hardware, and no ratio
is computed against them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Reference(NamedTuple):
    """Sequences per second and GPU, as published for BERT-large."""

    workload: str
    max_seq_length: int
    full: bool  # padded or full sequences; else the true lengths of a corpus, without padding
    lowest: float
    highest: float
    label: str
    source: str


NVIDIA = "https://github.com/NVIDIA/DeepLearningExamples/tree/master/PyTorch/LanguageModeling/BERT"
MLPERF = "https://mlcommons.org/benchmarks/training/ (v4.0, NVIDIA's submission, divided by its GPUs)"
REFERENCES = (
    ("pretrain", 128, True, 580.0, 694.0, "A100, published", NVIDIA),
    ("pretrain", 512, True, 96.5, 96.5, "A100 (padded), published", NVIDIA),
    ("pretrain", 512, False, 997.0, 997.0, "H200, FP8, C++ extensions, published", MLPERF),
    ("squad", 384, True, 110.0, 134.0, "A100, published", NVIDIA),
)


def references_for(configuration: Mapping[str, Any]) -> list[Reference]:
    """Those of the same model, work and length; full lengths and true lengths apart."""
    if configuration.get("model") != "large":
        return []
    full = configuration.get("lengths") == "full"
    return [
        reference
        for reference in map(Reference._make, REFERENCES)
        if (reference.workload, reference.max_seq_length, reference.full)
        == (configuration.get("workload"), configuration.get("max_seq_length"), full)
    ]
