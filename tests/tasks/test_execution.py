"""tasks/execution.py: which kernels, attention, graphs and micro-batches a device is given where no flag says."""

import dataclasses
import types

import pytest
import torch

from common.errors import Problems
from modeling import BertForPreTraining, prepare_model
from models.config import BERT_CONFIGS, BertConfig
from tasks import execution
from tasks.execution import execution_of, execution_problems, resolve_batches, resolve_execution
from tasks.pretraining.task import PretrainingTask
from tasks.setup import parse_arguments
from training.distributed.world import World

GPU = torch.device("cuda", 0)
GB = 10**9


def parsed(device=GPU, **flags):
    """Settings as parsed; `name=True` gives the flag, `no_name=True` its negation."""
    arguments = ["--output_dir", "out", "--do_train", "--max_steps", "1"]
    for name, value in flags.items():
        name = f"--no-{name}" if value is False else f"--{name}"
        arguments += [name] if value in (True, False) else [name, str(value)]
    return dataclasses.replace(parse_arguments(PretrainingTask, arguments), device=device)


@pytest.fixture
def gpu(monkeypatch):
    """A function that makes every GPU look like one of a compute capability and a memory."""

    def of(capability=(9, 0), n_bytes=85 * GB):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
        properties = types.SimpleNamespace(total_memory=n_bytes)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr("kernels.defaults.triton_problem", lambda device: None)
        monkeypatch.setattr(execution, "triton_problem", lambda device: None)

    return of


@pytest.mark.parametrize("graphs", [None, True])
@pytest.mark.parametrize(
    ("attention", "default", "is_padded"),
    [(None, "flash", False), (None, "sdpa", True), ("sdpa", "flash", True), ("triton", "sdpa", False)],
)
def test_attention_that_pads_is_known_by_the_backend_that_runs(monkeypatch, gpu, attention, default, is_padded, graphs):
    gpu(capability=(8, 0))
    monkeypatch.setattr(execution, "default_backend", lambda device, dtype: default)
    asked = []
    estimate = execution.MemoryEstimate

    def noted(*values, **options):
        asked.append(options)
        return estimate(*values, **options)

    monkeypatch.setattr(execution, "MemoryEstimate", noted)
    flags = {"attention": attention} if attention else {}
    settings = parsed(precision="bf16", global_batch_size=8, **flags, **({"cuda_graphs": True} if graphs else {}))
    settings = resolve_execution(settings, BertConfig(100, 32, 2, 2, 64))
    problems = Problems()
    assert resolve_batches(settings, BertForPreTraining, World(), problems, n_read=128).batches.micro == 8
    assert problems.found == []
    assert asked == [{"padded_attention": is_padded, "read_share": 0.25, "cuda_graphs": bool(graphs)}]


@pytest.mark.parametrize(
    ("changes", "capability", "expected"),
    [
        ({}, (9, 0), ("triton", "triton")),
        ({"precision": "fp16"}, (9, 0), ("triton", "triton")),
        ({"amp": True}, (9, 0), ("triton", "triton")),
        ({"precision": "fp8"}, (9, 0), ("triton", "triton")),
        ({"precision": "fp32"}, (9, 0), ("torch", None)),
        ({"max_seq_length": 1024}, (9, 0), ("triton", None)),
        ({"attention": "flash"}, (9, 0), ("triton", "flash")),
        ({"kernels": "torch"}, (9, 0), ("torch", None)),
        ({"layer_norm": "apex"}, (9, 0), ("torch", None)),
        ({"hidden_act": "relu"}, (9, 0), ("torch", None)),
        ({"hidden_act": "gelu_new"}, (9, 0), ("triton", "triton")),
        ({"hidden_size": 48}, (9, 0), ("triton", None)),  # heads of 24, which no Triton attention has
        ({}, (8, 0), ("torch", None)),
        ({"kernels": "triton"}, (8, 0), ("triton", None)),
        ({}, (10, 0), ("torch", None)),
    ],
)
def test_kernels_that_no_flag_names(gpu, changes, capability, expected):
    """Triton's on Hopper, where they were measured to be faster, as far as they go."""
    gpu(capability)
    shape = {"hidden_size": 32, "hidden_act": "gelu"}
    config = BertConfig(100, num_attention_heads=2, **shape | {n: v for n, v in changes.items() if n in shape})
    flags = {n: v for n, v in changes.items() if n not in shape}
    given = parsed(**flags)
    settings = resolve_execution(given, config)
    assert (settings.runtime.kernels, settings.runtime.attention) == expected
    assert (settings.record["kernels"], settings.record["attention"]) == expected
    assert given.record["kernels"] == flags.get("kernels")  # what was parsed is as it was


def test_a_cpu_has_pytorchs_kernels():
    settings = resolve_execution(parsed(torch.device("cpu")), BertConfig(100))
    assert (settings.runtime.kernels, settings.runtime.attention) == ("torch", None)
    assert (settings.precision.name, settings.precision.compute_dtype) == ("fp32", torch.float32)


@pytest.mark.parametrize(
    ("device", "flags", "named"),
    [("cuda", {}, []), ("cpu", {"checkpoint_activations": True}, ["on cpu", "random states"])],
)
def test_what_cuda_graphs_cannot_do_is_said(gpu, device, flags, named):
    gpu()
    settings = resolve_execution(parsed(torch.device(device), cuda_graphs=True, **flags), BertConfig(100))
    found = [str(problem) for problem in execution_problems(settings)]
    assert len(found) == len(named)
    assert all(part in sentence for part, sentence in zip(named, found, strict=True))


def test_graphs_are_for_training(gpu):
    gpu()
    settings = parsed(cuda_graphs=True)
    settings = dataclasses.replace(settings, task=dataclasses.replace(settings.task, do_train=False))
    (found,) = execution_problems(resolve_execution(settings, BertConfig(100)))
    assert "there is no --do_train" in str(found)


@pytest.mark.parametrize(
    ("micro_batch", "flags", "others", "expected"),
    [
        (128, {}, {}, True),
        (256, {}, {}, True),  # 32,768 tokens
        (257, {}, {}, False),
        (257, {"cuda_graphs": True}, {}, True),
        (128, {"cuda_graphs": False}, {}, False),
        (128, {"kernels": "torch"}, {}, False),
        (128, {"checkpoint_activations": True}, {}, False),
        (128, {}, {"others": [True]}, True),
        (128, {}, {"others": [True, False]}, False),  # on one of three GPUs they do not fit
        (128, {}, {"capability": (8, 0)}, False),
        (128, {}, {"n_bytes": 33 * GB}, False),  # without graphs these sequences take 20
    ],
)
def test_graphs_that_no_flag_names(gpu, micro_batch, flags, others, expected):
    gpu(**{name: value for name, value in others.items() if name != "others"})
    ranks = others.get("others", [])
    settings = parsed(max_seq_length=128, micro_batch_size=micro_batch, train_batch_size=micro_batch, **flags)
    settings = resolve_execution(settings, BertConfig.from_json_file(BERT_CONFIGS["large"]))

    def gather(value):
        return [value, *ranks] if isinstance(value, bool) else [value]

    world = types.SimpleNamespace(size=1 + len(ranks), gather=gather)
    settings = resolve_batches(settings, BertForPreTraining, world, Problems())
    assert settings.runtime.cuda_graphs is expected
    assert settings.record["cuda_graphs"] is expected


@pytest.mark.parametrize("flags", [{}, {"fp8_weight_gradients": True}])
def test_every_layer_is_told_of_fp8_weight_gradients(gpu, flags):
    gpu()
    config = BertConfig(100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = BertForPreTraining(config)
    settings = resolve_execution(parsed(precision="fp8", **flags), config)
    prepare_model(model, torch.device("cpu"), execution_of(settings))
    assert [layer.in_fp8 for layer in model.bert.encoder.layer] == [True, True]
    assert [layer.fp8_weight_gradients for layer in model.bert.encoder.layer] == [bool(flags)] * 2
