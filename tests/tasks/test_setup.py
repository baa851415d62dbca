"""tasks/setup.py: what of a GPU's memory a micro-batch is thought to take, and which kernels a GPU is given."""

import argparse
import types

import pytest
import torch

from common.errors import Problems
from models.config import BERT_CONFIGS, BertConfig
from tasks import setup as run_setup
from training.distributed.world import World


@pytest.mark.parametrize("graphs", [None, True])
@pytest.mark.parametrize(
    ("attention", "default", "is_padded"),
    [(None, "flash", False), (None, "sdpa", True), ("sdpa", "flash", True), ("triton", "sdpa", False)],
)
def test_attention_that_pads_is_known_by_the_backend_that_runs(monkeypatch, attention, default, is_padded, graphs):
    asked = []
    monkeypatch.setattr(run_setup, "default_backend", lambda device, dtype: default)
    monkeypatch.setattr(run_setup, "precision_problem", lambda name, device: None)
    monkeypatch.setattr("training.config.precision.precision_problem", lambda name, device: None)
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
        cuda_graphs=graphs,
        train_batch_size=None,
        gradient_accumulation_steps=None,
        global_batch_size=8,
        micro_batch_size=None,
    )
    config = BertConfig(100, 32, 2, 2, 64)
    batches = run_setup.divide_batch(args, config, 1000, World(), torch.device("cuda", 0), Problems())
    assert batches.micro == 8
    assert [(model["padded_attention"], model["cuda_graphs"]) for model in asked] == [(is_padded, bool(graphs))]


@pytest.mark.parametrize(
    ("changes", "capability", "expected"),
    [
        ({}, (9, 0), ("triton", "triton")),
        ({"precision": "fp16"}, (9, 0), ("triton", "triton")),
        ({"precision": "fp8"}, (9, 0), ("triton", "triton")),
        ({"precision": "fp32"}, (9, 0), ("torch", None)),
        ({"max_seq_length": 1024}, (9, 0), ("triton", None)),
        ({"attention": "flash"}, (9, 0), ("triton", "flash")),
        ({"kernels": "torch"}, (9, 0), ("torch", None)),
        ({"layer_norm": "apex"}, (9, 0), ("torch", None)),
        ({"hidden_act": "relu"}, (9, 0), ("torch", None)),
        ({"hidden_size": 48}, (9, 0), ("triton", None)),  # heads of 24, which no attention by hand has
        ({}, (8, 0), ("torch", None)),
        ({"kernels": "triton"}, (8, 0), ("triton", None)),
        ({}, (10, 0), ("torch", None)),
    ],
)
def test_kernels_nobody_named(monkeypatch, changes, capability, expected):
    """Those written by hand on Hopper, where they were measured to be faster, as far as they go."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("kernels.launch.triton_problem", lambda device: None)
    monkeypatch.setattr(run_setup, "precision_problem", lambda name, device: None)
    monkeypatch.setattr("training.config.precision.precision_problem", lambda name, device: None)
    shape = {"hidden_size": 32, "hidden_act": "gelu"}
    config = BertConfig(100, num_attention_heads=2, **shape | {n: v for n, v in changes.items() if n in shape})
    args = {"kernels": None, "attention": None, "precision": None, "fp16": False, "layer_norm": "torch"}
    args = argparse.Namespace(**args | {"max_seq_length": 512} | {n: v for n, v in changes.items() if n not in shape})
    run_setup.choose_kernels(args, config, torch.device("cuda", 0))
    assert (args.kernels, args.attention) == expected


def test_a_cpu_has_pytorchs_kernels():
    args = argparse.Namespace(
        kernels=None, attention=None, precision=None, fp16=False, layer_norm="torch", max_seq_length=128
    )
    run_setup.choose_kernels(args, BertConfig(100), torch.device("cpu"))
    assert (args.kernels, args.attention) == ("torch", None)


@pytest.mark.parametrize(
    ("device", "n_processes", "checkpoints", "trains", "named"),
    [
        ("cuda", 1, False, True, []),
        ("cpu", 1, False, True, ["on cpu"]),
        ("cuda", 4, True, True, ["there are 4", "exclude each other"]),
        ("cuda", 1, False, False, ["there is no --do_train"]),
    ],
)
def test_what_cuda_graphs_cannot_do_is_said(device, n_processes, checkpoints, trains, named):
    problems = Problems()
    args = argparse.Namespace(cuda_graphs=True, checkpoint_activations=checkpoints, do_train=trains)
    run_setup.check_graphs(args, types.SimpleNamespace(size=n_processes), torch.device(device), problems)
    assert len(problems.sentences) == len(named)
    assert all(part in sentence for part, sentence in zip(named, problems.sentences, strict=True))


@pytest.mark.parametrize(
    ("micro_batch", "changes", "expected"),
    [
        (128, {}, True),
        (256, {}, False),  # 32,768 tokens
        (256, {"cuda_graphs": True}, True),
        (128, {"cuda_graphs": False}, False),
        (128, {"kernels": "torch"}, False),
        (128, {"checkpoint_activations": True}, False),
        (128, {"n_processes": 2}, False),
        (128, {"capability": (8, 0)}, False),
        (128, {"do_train": False}, False),
        (128, {"gigabytes": 33}, False),  # without graphs these sequences take 20
    ],
)
def test_graphs_nobody_asked_for(monkeypatch, micro_batch, changes, expected):
    settings = {"cuda_graphs": None, "kernels": "triton", "checkpoint_activations": False, "max_seq_length": 128}
    settings |= {"do_train": True, "precision": "bf16", "fp16": False, "attention": "triton"}
    others = {"n_processes": 1, "capability": (9, 0), "gigabytes": 85} | changes
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: others["capability"])
    monkeypatch.setattr(run_setup, "_memory_bytes", lambda device: others["gigabytes"] * 10**9)
    monkeypatch.setattr("training.config.precision.precision_problem", lambda name, device: None)
    config, n_parameters = BertConfig.from_json_file(BERT_CONFIGS["large"]), 336_000_000
    args = argparse.Namespace(**settings | {n: v for n, v in changes.items() if n in settings})
    world, batches = types.SimpleNamespace(size=others["n_processes"]), types.SimpleNamespace(micro=micro_batch)
    run_setup.choose_graphs(args, config, n_parameters, batches, world, torch.device("cuda", 0))
    assert args.cuda_graphs is expected
