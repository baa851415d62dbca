"""A step that takes too long ends its process with the stacks of its threads; anything else may take its time."""

import re
import time

import pytest
from distributed_runs import run_forked, train
from pretraining_runs import command, make_inputs

from common.errors import UserError
from run_pretraining import main
from training.distributed import watchdog
from training.distributed.watchdog import Watchdog
from training.run import TrainingRun


@pytest.fixture
def hangs(monkeypatch):
    """What a watchdog that looks every hundredth of a second has told."""
    monkeypatch.setattr(watchdog, "SECONDS_BETWEEN_LOOKS", 0.01)
    return []


def test_a_step_within_the_limit_is_none_of_its_business(hangs):
    with Watchdog(0.5, hangs.append).watching() as dog:
        for _ in range(10):
            dog.step_begins()
            time.sleep(0.1)
    assert hangs == []


def test_a_step_that_takes_longer_is_told_once(hangs):
    with Watchdog(0.1, hangs.append).watching() as dog:
        dog.step_begins()
        dog.step_begins()
        time.sleep(0.4)
        dog.step_begins()
        time.sleep(0.4)
    assert hangs == ["step 2 of this process has run for more than 0 seconds"]


def test_pauses_and_what_comes_before_the_first_step_do_not_count(hangs):
    with Watchdog(0.2, hangs.append).watching() as dog:
        time.sleep(0.4)
        dog.step_begins()
        with dog.paused():
            time.sleep(0.4)
    assert hangs == []


@pytest.mark.parametrize(("least", "times", "is_hang"), [(0.3, 20, True), (5.0, 20, False), (0.3, 1000, False)])
def test_without_a_limit_it_follows_the_mean_step(hangs, monkeypatch, least, times, is_hang):
    monkeypatch.setattr(watchdog, "LEAST_SECONDS", least)
    monkeypatch.setattr(watchdog, "TIMES_THE_MEAN", times)
    with Watchdog(None, hangs.append).watching() as dog:
        dog.step_begins()
        for _ in range(20):
            dog.step_begins()
            time.sleep(0.01)
        time.sleep(1.0)
    assert bool(hangs) == is_hang


def test_a_limit_of_zero_is_none(hangs):
    with Watchdog(0, hangs.append).watching() as dog:
        dog.step_begins()
        time.sleep(0.1)
    assert hangs == []


def hang_on_rank_1(arguments):
    """In a rank: the third micro-batch of rank 1 waits for something else than the others."""
    losses, calls = TrainingRun.losses, []

    def wait_for_a_file_that_never_comes():
        time.sleep(1000)

    def losses_then_hang(run, batch):
        calls.append(batch)
        if run.world.rank == 1 and len(calls) == 3:
            wait_for_a_file_that_never_comes()
        return losses(run, batch)

    TrainingRun.losses = losses_then_hang
    train(arguments)


def test_of_ranks_that_hang_each_prints_its_stack_and_the_one_that_is_to_blame_shows(tmp_path):
    make_inputs(tmp_path)
    arguments = command(tmp_path, max_steps=20, num_train_epochs=None, max_step_seconds=3)
    outcomes = run_forked(arguments, 2, function=hang_on_rank_1)
    for rank, outcome in enumerate(outcomes):
        assert outcome.status == 1, outcome.output
        assert f"error: rank {rank}: step 2 of this process has run for more than 3 seconds" in outcome.output
        assert re.search(r"File .*training/step\.py.* in __call__", outcome.output), outcome.output
    blamed = ["wait_for_a_file_that_never_comes" in outcome.output for outcome in outcomes]
    assert blamed == [False, True]


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_limit_that_is_none(tmp_path, seconds):
    with pytest.raises(UserError, match=r"--max_step_seconds is \S+; give seconds, or 0 for no limit"):
        main(command(make_inputs(tmp_path), max_step_seconds=seconds))
