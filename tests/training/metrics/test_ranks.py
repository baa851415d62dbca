"""Which rank is said to be slow, by numbers worked out by hand."""

import time

import pytest
from distributed_runs import finish, train
from pretraining_runs import command, make_inputs, summary

from training.metrics.ranks import rank_figures, slow_ranks
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
        "rank 0 on host alpha takes 0.2500 s for its own work in a step, 25% more than the usual 0.2000 s; the other "
        "ranks wait for it."
    )


def test_a_fast_rank_makes_no_other_slow():
    assert list(slow_ranks(busy(0.1, 0.2, 0.2, 0.2), "abcd")) == []


def test_a_gpu_says_why():
    ranks = busy(0.2, 0.2, 0.3)
    ranks[2] |= {"sm_clock_mhz": 1215.4, "throttle_reasons": ["software power cap", "hardware slowdown"]}
    (sentence,) = slow_ranks(ranks, ["a", "a", "b"])
    assert "rank 2 on host b takes 0.3000 s for its own work in a step, at 1,215 MHz (software power cap, " in sentence


def slow_on_rank_1(arguments):
    """In a rank: rank 1 computes as if its GPU was hot."""
    losses = TrainingRun.losses

    def losses_after_a_while(run, batch):
        if run.world.rank == 1:
            time.sleep(0.1)
        return losses(run, batch)

    TrainingRun.losses = losses_after_a_while
    train(arguments)


def test_a_rank_that_is_slowed_is_named_at_the_end_of_its_run(tmp_path):
    arguments = command(make_inputs(tmp_path), max_steps=6, num_train_epochs=None, skip_checkpoint=True)
    first, _ = finish(arguments, 2, function=slow_on_rank_1)
    assert "warning: rank 1 on host " in first.output
    assert "warning: rank 0 on host " not in first.output
    found = summary(tmp_path / "out")
    fast, slow = (rank["busy_seconds"] for rank in found["ranks"])
    assert slow > fast + 0.15  # two micro-batches a step
    assert 0 < found["goodput"] < 1
