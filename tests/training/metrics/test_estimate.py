"""The time of a run before it begins, against numbers worked out by hand."""

from types import SimpleNamespace

import pytest
import torch

from training.metrics import estimate as module
from training.metrics.estimate import Estimate, estimate, too_long_problem
from training.task import Start


def made(device="cpu", precision="fp32", first_step=0):
    """A task of 1,000 FLOPs a token, in steps of 8 sequences of 100 tokens, of which 5 are masked."""
    seen = []
    settings = SimpleNamespace(
        device=torch.device(device),
        batches=SimpleNamespace(overall=8),
        max_seq_length=100,
        precision=SimpleNamespace(name=precision),
        task=SimpleNamespace(max_predictions_per_seq=5),
    )
    task = SimpleNamespace(settings=settings, flops=lambda work: seen.append(work) or 1000.0 * work.sum_lengths)
    return task, Start(20, first_step, 20, 0, False, None), seen


def test_on_a_cpu_it_is_flops_over_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(module, "CPU_FLOPS", 1e5)
    task, start, seen = made(first_step=15)
    found = estimate(task, start, 2)
    assert found.seconds_per_step == pytest.approx(8 * 100 * 1000 / (2 * 4 * 1e5))
    assert (found.n_steps, seen[0].n_sequences, seen[0].n_masked, seen[0].sum_squared_lengths) == (5, 8, 40, 80_000)
    assert str(found).startswith(
        "asked: 5 steps of 8 sequences of 100 tokens | here: a CPU, 8 threads | estimate: 1.0 s a "
    )
    assert "5.0 s in all" in str(found)


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H200", "fp8", 989.4),
        ("Tesla T4", "fp16", 65.0),
        ("Unheard Of", "fp16", None),
    ],
)
def test_on_gpus_it_is_a_share_of_their_peak_or_none(monkeypatch, name, precision, tflops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    found = estimate(*made("cuda", precision)[:2], 3)
    assert found.here == f"3 x {name}"
    if tflops is None:
        assert str(found).endswith("no estimate of the time: the fp16 peak of this GPU is not known")
        return
    assert found.seconds_per_step == pytest.approx(800_000 / (3 * tflops * 1e12 * 0.4))


@pytest.mark.parametrize(("hours", "refused"), [(23.9, False), (24.1, True)])
def test_more_than_a_day_on_a_cpu_is_asked_for_once_more(hours, refused):
    problem = too_long_problem(Estimate("1 step", "a CPU", "so", 10, hours * 360))
    assert (problem is not None) == refused
    assert not refused or "--long_cpu_run" in problem.remedy
