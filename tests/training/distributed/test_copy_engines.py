"""Averages by all-to-all, a local mean and all-gather, in ordinary memory over gloo; and where copy engines cannot."""

import datetime
import os
import types

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from torch import nn

from common.errors import UserError
from training.distributed import copy_engines
from training.distributed.copy_engines import CopyEngines, CopyEnginesError
from training.distributed.reduction import choose_reduction
from training.distributed.world import World

CPU = torch.device("cpu")


def join(store, n_ranks):
    rank = int(os.environ["RANK"])
    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=n_ranks, timeout=timeout)
    return rank


def average_on_ranks(store, n_ranks):
    """What each rank checks: values as expected and as all_reduce's, the same bits everywhere, buckets of any size."""
    rank = join(store, n_ranks)
    engines = CopyEngines(CPU)
    buckets = {n_elements: engines.allocate(n_elements) for n_elements in (1, 7, 12, 1000)}
    engines.allocate_staging()
    engines.connect()
    for n_elements, bucket in buckets.items():
        assert n_elements <= bucket.numel() < n_elements + 128 * n_ranks
        assert bucket.numel() % (128 * n_ranks) == 0
        assert not bucket.any()
        bucket.copy_(torch.arange(bucket.numel()) * (rank + 1.0))
        engines.average(bucket)
        torch.testing.assert_close(bucket, torch.arange(bucket.numel()) * (n_ranks + 1) / 2, rtol=1e-6, atol=0)
        bucket.copy_(torch.randn(bucket.numel(), generator=torch.Generator().manual_seed(rank)))
        expected = bucket / n_ranks
        dist.all_reduce(expected)
        engines.average(bucket)
        torch.testing.assert_close(bucket, expected, rtol=1e-6, atol=1e-6)
        of_all = [torch.empty_like(bucket) for _ in range(n_ranks)]
        dist.all_gather(of_all, bucket)
        assert all(torch.equal(of_all[0], other) for other in of_all)
    dist.destroy_process_group()


@pytest.mark.parametrize("n_ranks", [2, 3, 4])
def test_averages_are_those_of_all_reduce(tmp_path, n_ranks):
    outcomes = run_ranks(average_on_ranks, n_ranks, str(tmp_path / "store"), n_ranks)
    assert [outcome.status for outcome in outcomes] == [0] * n_ranks, "\n".join(o.output for o in outcomes)


def reduce_on_ranks(store, n_ranks):
    """What each rank checks: gradients in such buckets, of sizes that do not divide by three, are averaged."""
    rank = join(store, n_ranks)
    world = World(rank=rank, size=n_ranks)
    parameters = [nn.Parameter(torch.ones(size)) for size in (5, 200, 70)]
    reduction = copy_engines.reduction_by_copy_engines(parameters, lambda: None, world, CPU)
    assert not any(gradient.any() for gradient in reduction.gradients)
    for step in range(1, 3):
        loss = sum((parameter * (rank + 1) * step).sum() for parameter in parameters)
        reduction.backward(loss, accumulates=False, reduces=True)
        for parameter in parameters:
            assert (parameter.grad == 2 * step).all()
    dist.destroy_process_group()


def test_gradients_are_averaged_in_its_memory(tmp_path):
    outcomes = run_ranks(reduce_on_ranks, 3, str(tmp_path / "store"), 3)
    assert [outcome.status for outcome in outcomes] == [0] * 3, "\n".join(o.output for o in outcomes)


def test_where_they_cannot_average(monkeypatch):
    gpu = torch.device("cuda", 0)
    world = World(rank=0, size=2, local_size=2)

    def found(world=world, device=gpu, dtype="fp32"):
        return copy_engines._problem_here(world, device, dtype)

    offers = types.SimpleNamespace(NCCL_CTA_POLICY_ZERO=2)
    monkeypatch.setattr(dist, "ProcessGroupNCCL", offers, raising=False)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda own, other: True)
    assert found() is None
    assert "uses the CPU" in found(device=CPU)
    assert "bf16" in found(dtype="bf16")
    assert "more than one machine" in found(World(rank=0, size=16, local_size=8))
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda own, other: False)
    assert "GPU 0 cannot access the memory of GPU 1" in found()
    monkeypatch.setattr(dist, "ProcessGroupNCCL", object())
    assert "zero-CTA policy" in found()
    monkeypatch.delattr(dist, "ProcessGroupNCCL")
    assert "zero-CTA policy" in found()


def test_all_ranks_hear_of_the_problem_of_one(monkeypatch):
    monkeypatch.setattr(World, "gather", lambda self, value: [None, "GPU 1 cannot"])
    monkeypatch.setattr(copy_engines, "_problem_here", lambda *values: None)
    with pytest.raises(CopyEnginesError, match="GPU 1 cannot"):
        copy_engines.check(World(rank=0, size=2), CPU, "fp32")


def test_a_check_that_torch_cannot_do_is_a_problem(monkeypatch):
    monkeypatch.setattr(World, "gather", lambda self, value: [value])
    monkeypatch.setattr(copy_engines, "_problem_here", lambda *values: torch.cuda.not_in_this_version())
    with pytest.raises(CopyEnginesError, match=r"rank 0: .*not_in_this_version"):
        copy_engines.check(World(rank=0, size=2), CPU, "fp32")


def choose(way, world, device=CPU):
    return choose_reduction([nn.Parameter(torch.ones(3))], lambda: None, world, device, way, "fp32")


def fail_on_a_rank(store, part):
    """What each rank checks: a setup that fails on rank 1 alone is given up by all, who then average otherwise."""
    rank = join(store, 2)
    world = World(rank=rank, size=2, local_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy_engines, "_problem_here", lambda *values: None)
        if part == "average":  # a wrong one, on all ranks
            patch.setattr(CopyEngines, part, lambda self, bucket: None)
        elif rank == 1:
            patch.setattr(CopyEngines, part, lambda *values: (_ for _ in ()).throw(RuntimeError("no room\nstack")))
        found = choose("auto", world)
        assert found.by == "gloo"
        reason = "rank 0: rank 0 received wrong bytes from another GPU" if part == "average" else "rank 1: no room"
        assert found.warning == f"copy engines cannot average gradients, so gloo does: {reason}"
        with pytest.raises(UserError, match="copy engines cannot average gradients: rank"):
            choose("copy_engines", world)
    dist.destroy_process_group()


@pytest.mark.parametrize("part", ["__init__", "allocate", "allocate_staging", "average"])
def test_all_ranks_fall_back_where_one_fails(tmp_path, part):
    outcomes = run_ranks(fail_on_a_rank, 2, str(tmp_path / "store"), part)
    assert [outcome.status for outcome in outcomes] == [0, 0], "\n".join(o.output for o in outcomes)


def test_what_a_user_asks_for(monkeypatch):
    monkeypatch.setattr(World, "gather", lambda self, value: [value])
    world = World(rank=0, size=2, local_size=2)
    assert choose("nccl", world)[1:] == ("gloo", None)
    problem = "copy engines cannot average gradients, so gloo does: rank 0: this run uses the CPU, which has none"
    assert choose("auto", world)[1:] == ("gloo", problem)
    with pytest.raises(UserError, match="copy engines cannot average gradients: rank 0: this run uses the CPU"):
        choose("copy_engines", world)


def average_on_a_gpu(store):
    """NCCL's collectives of the zero-CTA policy on symmetric memory, as far as one rank can call them."""
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=0, world_size=1, device_id=device)
    engines = CopyEngines(device)
    bucket = engines.allocate(1000)
    engines.allocate_staging()
    engines.connect()
    with torch.cuda.stream(torch.cuda.Stream()):
        bucket.fill_(3)
        engines.average(bucket)
    torch.cuda.synchronize()
    assert (bucket == 3).all()
    dist.destroy_process_group()


@pytest.mark.gpu
def test_one_gpu_averages_with_itself(tmp_path):
    (outcome,) = run_ranks(average_on_a_gpu, 1, str(tmp_path / "store"))
    assert outcome.status == 0, outcome.output
