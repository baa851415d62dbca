"""Published throughputs to draw beside measured ones, each with where it comes from and how it differs.

None of them was measured here, and none under the conditions of a chart that it is drawn in: another GPU, another
precision or other software. They say where others stand, not who wins, so their labels name the hardware, and no ratio
is computed against them. "Second hand" are figures that are often quoted and that we did not find in a document of
those who measured them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Reference(NamedTuple):
    """Sequences per second and GPU, as published for BERT-large."""

    workload: str
    max_seq_length: int
    full: bool  # padded or full sequences; else the true lengths of a corpus, without padding
    rate: float
    label: str
    source: str


PYTORCH = (
    "https://github.com/NVIDIA/DeepLearningExamples/tree/master/PyTorch/LanguageModeling/BERT "
    "(8 x A100 80GB, mixed precision, container 21.11)"
)
PADDLE = (
    "https://github.com/NVIDIA/DeepLearningExamples/tree/master/PaddlePaddle/LanguageModeling/BERT "
    "(8 x A100 80GB, mixed precision, container 22.12)"
)
SECOND_HAND = "second hand; not found in a document of those who measured it"
REFERENCES = (
    ("pretrain", 128, True, 580.0, "A100, PyTorch", PYTORCH),
    ("pretrain", 128, True, 694.0, "A100, Paddle", PADDLE),
    ("pretrain", 512, True, 96.5, "A100, second hand", SECOND_HAND),
    ("pretrain", 512, True, 210.0, "A100, PyTorch", PYTORCH),
    ("pretrain", 512, True, 264.0, "A100, Paddle", PADDLE),
    ("pretrain", 512, False, 997.0, "H200, FP8, MLPerf v4.0, second hand", SECOND_HAND),
    ("squad", 384, True, 110.5, "A100, PyTorch", PYTORCH),
    ("squad", 384, True, 123.0, "A100, Paddle", PADDLE),
    ("squad", 384, True, 134.0, "A100, second hand", SECOND_HAND),
)


def references_for(configuration: Mapping[str, Any]) -> list[Reference]:
    """Those of the same model, work and length, by rate; full lengths and true lengths apart."""
    if configuration.get("model") != "large":
        return []
    full = configuration.get("lengths") == "full"
    return [
        reference
        for reference in map(Reference._make, REFERENCES)
        if (reference.workload, reference.max_seq_length, reference.full)
        == (configuration.get("workload"), configuration.get("max_seq_length"), full)
    ]
