"""What training/run.py decides itself: in what gradients are made where several ranks average them."""

from types import SimpleNamespace

import pytest
import torch

from training.run import TrainingRun


@pytest.mark.parametrize(
    ("reduced_in", "accumulation_steps", "takes_bf16", "dtype"),
    [
        ("bf16", 1, True, torch.bfloat16),
        ("bf16", 2, True, torch.float32),  # sums of micro-batches would be rounded again and again
        ("bf16", 1, False, torch.float32),
        ("fp16", 1, True, torch.float32),
        ("fp32", 1, True, torch.float32),
    ],
)
def test_gradients_are_made_in_bf16_where_they_are_sent_as_they_are(reduced_in, accumulation_steps, takes_bf16, dtype):
    run = SimpleNamespace(
        settings=SimpleNamespace(
            distribution=SimpleNamespace(reduced_in=reduced_in),
            batches=SimpleNamespace(accumulation_steps=accumulation_steps),
        ),
        optimizer=SimpleNamespace(takes_bf16_gradients=takes_bf16),
    )
    assert TrainingRun._dtype_of_buckets(run) == dtype
