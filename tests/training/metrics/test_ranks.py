"""Which rank is said to be slow, by numbers worked out by hand."""

import os
import time

import pytest
import torch
from distributed_runs import finish, train
from pretraining_runs import command, make_inputs, summary

from training.distributed.world import World
from training.metrics import ranks as metrics_ranks
from training.metrics.ranks import probe, rank_figures, slow_ranks, steps_between_probes
from training.run import TrainingRun


def busy(*seconds):
    return [{"busy_seconds": each} for each in seconds]


def test_a_ranks_own_work_is_all_but_the_reduction():
    parts = {"data": 0.01, "forward": 0.1, "backward": 0.2, "reduction": 5.0, "optimizer": 0.03}
    clock = {"min": 1000.0, "mean": 1200.0, "max": 1980.0}
    telemetry = {"gpu": {"sm_clock_mhz": clock, "throttle_reasons": ["hardware power brake"]}}
    assert rank_figures(parts, {}) == {"busy_seconds": pytest.approx(0.34)}
    figures = rank_figures(parts, telemetry)
    assert (figures["sm_clock_mhz"], figures["throttle_reasons"]) == (1200.0, ["hardware power brake"])


def test_ranks_that_are_alike_are_not_named():
    assert list(slow_ranks(busy(0.2, 0.21, 0.205), "abc")) == []
    assert list(slow_ranks([], [])) == []


def test_of_two_the_slower_one_is_named():
    (sentence,) = slow_ranks(busy(0.25, 0.2), ["alpha", "beta"])
    assert sentence == (
        "rank 0 on host alpha takes 0.25 s for its own work in a step, 25% more than the usual 0.2 s; the other "
        "ranks wait for it."
    )


def test_a_fast_rank_makes_no_other_slow():
    assert list(slow_ranks(busy(0.1, 0.2, 0.2, 0.2), "abcd")) == []


def test_a_gpu_says_why():
    ranks = busy(0.2, 0.2, 0.3)
    ranks[2] |= {"sm_clock_mhz": 1215.4, "throttle_reasons": ["software power cap", "hardware slowdown"]}
    (sentence,) = slow_ranks(ranks, ["a", "a", "b"])
    assert "rank 2 on host b takes 0.3 s for its own work in a step, at 1,215 MHz (software power cap, " in sentence


@pytest.mark.parametrize(
    ("asked", "world_size", "device", "steps"),
    [(None, 8, "cuda", 1000), (None, 8, "cpu", None), (50, 2, "cpu", 50), (0, 8, "cuda", None), (50, 1, "cuda", None)],
)
def test_how_often_ranks_are_probed(asked, world_size, device, steps):
    assert steps_between_probes(asked, world_size, torch.device(device)) == steps


class TwoRanks(World):
    """Of which the other has these figures."""

    def __init__(self, other):
        super().__init__(size=2)
        object.__setattr__(self, "other", other)

    def gather(self, value):
        return [value, (self.other, "beta")]


def test_a_probe_names_a_slow_gpu_and_one_whose_memory_fails(monkeypatch):
    monkeypatch.setattr(metrics_ranks, "seconds_of_matmul", lambda *_: 0.001)
    cpu = torch.device("cpu"), torch.float32, "alpha"
    assert probe(TwoRanks({"busy_seconds": 0.00105, "memory_errors": 0}), *cpu) == []
    slow, sick = probe(TwoRanks({"busy_seconds": 0.0015, "sm_clock_mhz": 900, "memory_errors": 3}), *cpu)
    assert slow.startswith("rank 1 on host beta takes 0.0015 s for a matmul of 512, at 900 MHz, 50% more")
    assert sick.startswith("the GPU of rank 1 on host beta has had 3 memory errors")


def test_the_probe_times_a_real_matmul():
    assert probe(World(), torch.device("cpu"), torch.float32, "alpha") == []


def slow_on_rank_1(arguments):
    """In a rank: rank 1 computes as if its GPU was hot."""
    losses = TrainingRun.losses
    own = 0.002 if os.environ["RANK"] == "1" else 0.001
    metrics_ranks.seconds_of_matmul = lambda *_: own

    def losses_after_a_while(run, batch):
        if run.world.rank == 1:
            time.sleep(0.1)
        return losses(run, batch)

    TrainingRun.losses = losses_after_a_while
    train(arguments)


def test_a_rank_that_is_slowed_is_named_on_the_way_and_at_the_end(tmp_path):
    flags = {"max_steps": 6, "num_train_epochs": None, "skip_checkpoint": True, "steps_between_probes": 4}
    first, _ = finish(command(make_inputs(tmp_path), **flags), 2, function=slow_on_rank_1)
    for step in (1, 5):
        assert f"warning: before step {step}: rank 1 on host " in first.output
    assert first.output.count("for a matmul of 512") == 2
    assert "warning: rank 1 on host " in first.output
    assert "warning: rank 0 on host " not in first.output
    found = summary(tmp_path / "out")
    fast, slow = (rank["busy_seconds"] for rank in found["ranks"])
    assert slow > fast + 0.15  # two micro-batches a step
    assert 0 < found["goodput"] < 1
