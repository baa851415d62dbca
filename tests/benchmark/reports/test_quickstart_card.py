"""The report card of a pre-training and a fine-tuning, against one written by hand."""

import re

import pytest

from benchmark.logs import Phase, Run
from benchmark.reports.quickstart_card import card

CPU = {"cpu": "AMD EPYC", "cpu_cores": 2, "gpus": [], "git_commit": "0123456789abcdef", "git_dirty": False}
GPU = {**CPU, "gpus": ["NVIDIA H200"], "git_commit": None}
SETTINGS = {"precision": "bf16", "arguments": {"train_file": "squad/train.json"}}


def pretraining(environment, **throughput):
    """Two phases, of which the first measured a throughput."""
    speed = {"sequences_per_second": 1140.84, "tokens_per_second": 16508.6, **throughput}
    first = Phase({1: {"average_loss": 8.3021}, 150: {"average_loss": 6.5978}}, speed, {}, SETTINGS)
    second = Phase({1: {"average_loss": 6.9}, 40: {"average_loss": 6.8}}, {}, {"eval_mlm_accuracy": 0.0816}, SETTINGS)
    return Run(environment=environment, phases={1: first, 2: second})


def squad():
    scored = {
        "squad/train.json": {"exact_match": 90.31, "f1": 91.77, "total": 165, "steps": 200},
        "squad/dev.json": {"exact_match": 15.09, "f1": 16.12, "total": 53, "steps": 200},
    }
    return Run(task="squad", phases={1: Phase({1: {}}, settings=SETTINGS)}, scored=scored)


def test_a_cpu():
    rows = card(pretraining(CPU), squad())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", rows.pop("date"))
    assert rows == {
        "hardware": "AMD EPYC, 2 cores, bf16",
        "phase 1": "1,140.8 sequences/s, 16,509 tokens/s; loss 8.302 to 6.598 in 150 steps",
        "phase 2": "- sequences/s, - tokens/s; loss 6.900 to 6.800 in 40 steps",
        "share of peak": "no peak known for this CPU",
        "held-out": "8.2% of the masked tokens are found",
        "SQuAD, trained on": "EM 90.3, F1 91.8 on 165 questions",
        "SQuAD, new": "EM 15.1, F1 16.1 on 53 questions",
        "commit": "0123456789",
    }


@pytest.mark.parametrize(
    ("utilisation", "words"),
    [
        (
            {"fraction": 0.4312, "peak_tflops": 989.4, "peak": "H200 SXM data sheet, dense bf16"},
            "43.1% of 989.4 TFLOP/s (H200 SXM data sheet, dense bf16), in phase 1",
        ),
        (None, "no peak known for this GPU in bf16"),
    ],
)
def test_a_gpu(utilisation, words):
    rows = card(pretraining(GPU, utilisation=utilisation), squad())
    assert (rows["hardware"], rows["share of peak"]) == ("NVIDIA H200, bf16", words)
    assert rows["commit"] == "unknown"


def test_changes_that_are_not_committed_are_said():
    assert card(pretraining({**CPU, "git_dirty": True}), squad())["commit"] == "0123456789, changed"
