"""run_setup.py: what of a GPU's memory a micro-batch is thought to take."""

import argparse
import types

import pytest
import torch

import run_setup
from configuration import BertConfig
from errors import Problems
from training.distributed import World


@pytest.mark.parametrize(
    ("attention", "default", "is_padded"),
    [(None, "flash", False), (None, "sdpa", True), ("sdpa", "flash", True), ("triton", "sdpa", False)],
)
def test_attention_that_pads_is_known_by_the_backend_that_runs(monkeypatch, attention, default, is_padded):
    asked = []
    monkeypatch.setattr(run_setup, "default_backend", lambda device, dtype: default)
    monkeypatch.setattr(run_setup, "precision_problem", lambda name, device: None)
    monkeypatch.setattr("training.precision.precision_problem", lambda name, device: None)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(total_memory=80 * 2**30)
    )
    monkeypatch.setattr(run_setup, "micro_batch_that_fits", lambda *sizes, **model: asked.append(model) or sizes[1])
    args = argparse.Namespace(
        attention=attention,
        precision="bf16",
        fp16=False,
        amp=False,
        max_seq_length=128,
        checkpoint_activations=False,
        train_batch_size=None,
        gradient_accumulation_steps=None,
        global_batch_size=8,
        micro_batch_size=None,
    )
    config = BertConfig(100, 32, 2, 2, 64)
    batches = run_setup.divide_batch(args, config, 1000, World(), torch.device("cuda", 0), Problems())
    assert batches.micro == 8
    assert [model["padded_attention"] for model in asked] == [is_padded]
