"""run_pretraining on a GPU: the precisions beside each other, a resume, and NCCL's part of data-parallel training."""

import functools
import itertools

import pytest
import torch
import torch.distributed as dist
from distributed_runs import finish
from pretraining_runs import GPU_SHAPE, command, curve, losses, make_inputs, summary, write_config

from run_pretraining import main
from training.distributed.bucket_reduction import BucketReduction
from training.distributed.data_parallel import average
from training.evaluation import TARGET_MISSED_EXIT_CODE
from training.step import TrainingStep

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = make_inputs(tmp_path_factory.mktemp("gpu"), **GPU_SHAPE)
    with_dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    write_config(folder / "dropout.json", **GPU_SHAPE | with_dropout)
    return folder


def on_gpu(folder, output, **changes):
    return command(folder, output_dir=folder / output, no_cuda=None, **changes)


def graphs_flag(graphs):
    return "cuda_graphs" if graphs else "no-cuda_graphs"


@pytest.fixture(scope="module")
def fp32_losses(folder):
    main(on_gpu(folder, "fp32", precision="fp32", max_steps=20))
    return losses(folder / "fp32")


@pytest.mark.parametrize(("precision", "bound"), [("tf32", 2e-3), ("fp16", 5e-3), ("bf16", 2e-2)])
def test_precisions_follow_fp32(folder, fp32_losses, precision, bound):
    main(on_gpu(folder, precision, precision=precision, max_steps=20, init_loss_scale=2.0**8))
    assert losses(folder / precision) == pytest.approx(fp32_losses, rel=bound)
    assert summary(folder / precision)["peak_memory_allocated_bytes"] > 0


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_stopped_run_goes_on(folder, precision):
    main(on_gpu(folder, f"straight {precision}", precision=precision))
    main(on_gpu(folder, f"stopped {precision}", precision=precision, steps_this_run=3))
    main(on_gpu(folder, f"stopped {precision}", precision=precision, resume_from_checkpoint=True))
    # Not bit for bit: FlashAttention's backward pass adds up in no fixed order.
    expected = losses(folder / f"straight {precision}")
    assert losses(folder / f"stopped {precision}") == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("compiled", [False, True])
def test_deterministic_runs_are_the_same_bits(folder, kernels, compiled):
    """Dropout included."""
    flags = {"precision": "bf16", "kernels": kernels, "compile": compiled, "max_steps": 10, "deterministic": True}
    outputs = [f"{kernels} {compiled} {number}" for number in range(2)]
    for output in outputs:
        torch._dynamo.reset()  # as in a process of its own: code for any shape adds up differently from code for one
        main(on_gpu(folder, output, skip_checkpoint=True, config_file=folder / "dropout.json", **flags))
    first, second = (losses(folder / output) for output in outputs)
    assert first == second


@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize(
    "flags",
    [
        {"precision": "bf16", "compile": True},
        {"precision": "bf16", "attention": "sdpa"},
        {"precision": "fp32"},
        {"precision": "fp16", "init_loss_scale": 2.0**8, "kernels": "triton"},
        {"precision": "bf16", "compile": True, "kernels": "triton", "attention": "triton"},
        {"precision": "fp8", "compile": True, "kernels": "triton", "attention": "triton"},
    ],
)
def test_graphs_change_no_bit(folder, flags, accumulation_steps):
    """Dropout, batches of several shapes, and the gradients' sum over micro-batches included."""
    curves = []
    for graphs in (False, True):
        torch._dynamo.reset()
        output = f"graphs {graphs} {accumulation_steps} {' '.join(map(str, flags.values()))}"
        changes = flags | {
            graphs_flag(graphs): True,
            "gradient_accumulation_steps": accumulation_steps,
            "max_steps": 20,
        }
        changes |= {"skip_checkpoint": True, "deterministic": True, "config_file": folder / "dropout.json"}
        main(on_gpu(folder, output, **changes))
        curves.append(losses(folder / output))
    if flags.get("compile") and flags.get("kernels") != "triton":
        # A layer's code for one shape is in its graph, where without graphs that for any shape has taken its place.
        assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    else:
        assert curves[1] == curves[0]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize(
    "flags",
    [
        {"precision": "fp32", "no-allreduce_post_accumulation": True},
        {"precision": "bf16", "kernels": "triton", "attention": "triton", "reduce_dtype": "bf16"},
        {"precision": "fp16", "init_loss_scale": 2.0**8, "kernels": "triton", "shard_optimizer": True},
    ],
)
def test_graphs_change_no_bit_on_two_gpus(folder, flags, accumulation_steps):
    """Of other shapes at a time."""
    curves = []
    for graphs in (False, True):
        output = f"two {graphs} {accumulation_steps} {flags['precision']}"
        changes = {graphs_flag(graphs): True, "gradient_accumulation_steps": accumulation_steps}
        changes |= {"optimizer": "adamw", "max_steps": 20, "skip_checkpoint": True, "deterministic": True, **flags}
        finish(on_gpu(folder, output, **changes, config_file=folder / "dropout.json"), 2, function=run_rank)
        curves.append(losses(folder / output))
    assert curves[1] == curves[0]


def run_rank(arguments):
    main(arguments)


@pytest.mark.parametrize("graphs", [False, True])
def test_evaluations_towards_a_target_change_no_bit(folder, graphs):
    """Before the first step too, when no graph is recorded yet."""
    flags = {"precision": "bf16", "kernels": "triton", "deterministic": True, "config_file": folder / "dropout.json"}
    flags |= {graphs_flag(graphs): True, "skip_checkpoint": True, "max_steps": 20, "schedule": "mlperf"}
    flags |= {"warmup_proportion": None, "beta1": 0.6, "beta2": 0.85}
    main(on_gpu(folder, f"unscored {graphs}", **flags))
    target = {"target_mlm_accuracy": 0.999, "num_samples_per_evaluation": 20, "evaluate_first": True}
    with pytest.raises(SystemExit) as ended:
        main(on_gpu(folder, f"scored {graphs}", eval_dir=folder / "test", **flags, **target))
    assert ended.value.code == TARGET_MISSED_EXIT_CODE
    trained = [
        [values["average_loss"] for values in curve(folder / f"{name} {graphs}").values() if "average_loss" in values]
        for name in ("scored", "unscored")
    ]
    assert trained[0] == trained[1]


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("compiled", [False, True])
def test_no_step_waits_for_the_device(folder, monkeypatch, kernels, compiled, graphs):
    """PyTorch raises where the host would wait; the first steps may, since they compile."""
    step, calls = TrainingStep.__call__, itertools.count(1)

    def without_waiting(training_step, micro_batches):
        torch.cuda.set_sync_debug_mode("error" if next(calls) > 5 else "default")
        try:
            return step(training_step, micro_batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(TrainingStep, "__call__", without_waiting)
    flags = {"kernels": kernels, "compile": compiled, "precision": "bf16", "synthetic": "full", "input_dir": None}
    flags[graphs_flag(graphs)] = True
    main(on_gpu(folder, f"unwaiting {kernels} {compiled} {graphs}", **flags, max_steps=10, skip_checkpoint=True))
    assert next(calls) > 10


def test_the_micro_batch_is_what_fits(folder, capsys):
    batch = {"train_batch_size": None, "gradient_accumulation_steps": None, "max_steps": 1, "precision": "bf16"}
    main(on_gpu(folder, "fitting", **batch, global_batch_size=48))
    assert "global batch 48 = micro-batch 48 x 1 accumulated x 1 process | " in capsys.readouterr().out


@pytest.fixture
def nccl():
    """A process group of one rank: all of NCCL but the other ranks."""
    device = torch.device("cuda", 0)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1, device_id=device)
    yield device
    dist.destroy_process_group()


@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 0.0), ("bf16", 2**-8), ("fp16", 2**-10)])
def test_gradients_pass_through_nccl_in_each_dtype(nccl, dtype, bound):
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 32, device=nccl)
    inputs = torch.randn(8, 64, device=nccl)
    model(inputs).square().mean().backward()
    expected = model.weight.grad
    reduction = BucketReduction(list(model.parameters()), functools.partial(average, reduce_dtype=dtype))
    reduction.backward(model(inputs).square().mean(), False, True)
    actual = model.weight.grad
    assert ((actual - expected).abs() <= bound * expected.abs() + (2**-25 if dtype == "fp16" else 0)).all()
    assert (dtype == "fp32") == torch.equal(actual, expected)


def test_gradients_in_bf16_pass_through_nccl_as_they_are(nccl):
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 32, device=nccl)
    inputs = torch.randn(8, 64, device=nccl)
    model(inputs).square().mean().backward()
    expected = model.weight.grad
    average_in = functools.partial(average, reduce_dtype="bf16")
    reduction = BucketReduction(list(model.parameters()), average_in, dtype=torch.bfloat16)
    reduction.backward(model(inputs).square().mean(), False, True)
    assert torch.equal(model.weight.grad, expected.bfloat16())
