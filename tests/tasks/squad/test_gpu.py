"""run_squad on a GPU: the precisions beside each other, answers, a resume, pinned batches."""

import json

import pytest
import torch
from distributed_runs import finish
from pretraining_runs import GPU_SHAPE, losses, summary
from squad_runs import command, make_inputs

from run_squad import main

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("gpu"), **GPU_SHAPE)


def on_gpu(folder, output, **changes):
    return command(folder, output_dir=folder / output, no_cuda=None, **changes)


@pytest.fixture(scope="module")
def on_cpu(folder):
    main(command(folder, output_dir=folder / "cpu", max_steps=20))
    return folder / "cpu"


def answers(folder):
    return json.loads((folder / "predictions.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("tf32", 5e-3), ("fp16", 1e-2), ("bf16", 3e-2)])
def test_precisions_follow_the_cpu(folder, on_cpu, precision, bound):
    main(on_gpu(folder, precision, precision=precision, max_steps=20, init_loss_scale=2.0**8))
    assert losses(folder / precision) == pytest.approx(losses(on_cpu), rel=bound)
    measured = summary(folder / precision)
    assert measured["inference_sequences_per_second"] > 0
    assert measured["peak_memory_allocated_bytes"] > 0
    if precision == "fp32":
        assert answers(folder / precision) == answers(on_cpu)


def test_compiled(folder, on_cpu):
    main(on_gpu(folder, "compiled", precision="fp32", max_steps=20, compile=True))
    # Fused kernels round otherwise, and AdamW's first steps, which divide by tiny moments, spread that.
    compiled, expected = losses(folder / "compiled"), losses(on_cpu)
    assert compiled[:3] == pytest.approx(expected[:3], rel=1e-4)
    assert compiled == pytest.approx(expected, rel=1e-2)


def test_a_stopped_run_goes_on(folder):
    main(on_gpu(folder, "straight", precision="bf16"))
    main(on_gpu(folder, "stopped", precision="bf16", steps_this_run=3))
    main(on_gpu(folder, "stopped", precision="bf16", resume_from_checkpoint=True))
    # Not bit for bit: FlashAttention's backward pass adds up in no fixed order.
    assert losses(folder / "stopped") == pytest.approx(losses(folder / "straight"), rel=1e-2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_graphs_change_no_bit_on_two_gpus(folder, accumulation_steps):
    flags = {"precision": "bf16", "kernels": "triton", "attention": "triton", "max_steps": 20}
    flags |= {"deterministic": True, "gradient_accumulation_steps": accumulation_steps}
    outputs = []
    for graphs in ("no-cuda_graphs", "cuda_graphs"):
        outputs.append(folder / f"two {graphs} {accumulation_steps}")
        finish(on_gpu(folder, outputs[-1], **flags, **{graphs: True}), 2, function=run_rank)
    without, by_graphs = outputs
    assert losses(by_graphs) == losses(without)
    assert answers(by_graphs) == answers(without)


def run_rank(arguments):
    main(arguments)


def test_the_profiled_steps_show_kernels(folder):
    main(on_gpu(folder, "profiled", precision="bf16", profile="torch", **{"profile-start": 2, "profile-steps": 2}))
    events = json.loads((folder / "profiled" / "profile" / "trace_rank0.json").read_text())["traceEvents"]
    assert any(event.get("cat") == "kernel" for event in events)
