"""fp16 by the command line: losses near fp32's, and what happens when gradients are not finite.

A scale of 2^20 overflows by itself at first; other infinities are put into chosen micro-batches.
"""

import math
import os
import signal

import pytest
import torch
from pretraining_runs import command, curve, losses, make_inputs, summary

from common.checkpoint_files import find_checkpoints
from common.errors import UserError
from run_pretraining import main
from training.metrics.logger import read_log
from training.run import TrainingRun

SCALE = 2.0**10  # nothing overflows at this one

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("fp16"))


def fp16(folder, output, **changes):
    return command(folder, output_dir=folder / output, **{"precision": "fp16", "init_loss_scale": SCALE, **changes})


def spoil(monkeypatch, is_bad):
    """Make the loss of micro-batches infinite whose number, counted from 1 over the run, `is_bad` says."""
    calls = 0
    losses_of = TrainingRun.losses

    def spoiled(run, batch):
        nonlocal calls
        calls += 1
        values = losses_of(run, batch)
        return (values[0] * math.inf, *values[1:]) if is_bad(calls) else values

    monkeypatch.setattr(TrainingRun, "losses", spoiled)


def skips(output):
    """(step, loss scale after it, skipped so far) of each skipped step."""
    events = [event for event in read_log(output / "dllogger.json") if isinstance(event.get("step"), list)]
    return [
        (event["step"][-1], event["data"]["loss_scale"], event["data"]["skipped_steps"])
        for event in events
        if event["step"] and "skipped_steps" in event["data"]
    ]


def test_losses_are_near_those_of_fp32(folder):
    main(fp16(folder, "fp16"))
    main(fp16(folder, "fp32", precision="fp32"))
    half, full = losses(folder / "fp16"), losses(folder / "fp32")
    assert half == pytest.approx(full, rel=2e-3)
    assert half != full
    assert summary(folder / "fp16")["skipped_steps"] == 0


@pytest.mark.parametrize("flag", [{"precision": None, "fp16": True}, {"precision": None, "amp": True}])
def test_nvidias_flags_run_the_same(folder, flag, tmp_path):
    main(fp16(folder, tmp_path / "ours"))
    main(fp16(folder, tmp_path / "theirs", **flag))
    assert losses(tmp_path / "ours") == losses(tmp_path / "theirs")


def test_a_skipped_step_halves_the_scale_and_holds_the_schedule(folder, monkeypatch):
    main(fp16(folder, "smooth", max_steps=9))
    rates = [values["learning_rate"] for values in curve(folder / "smooth").values()]
    # Micro-batches 5 and 6 are the third attempt's, 10 is the fifth's second.
    spoil(monkeypatch, lambda call: call in (6, 10))
    main(fp16(folder, "skipping", max_steps=9))
    assert skips(folder / "skipping") == [(3, SCALE / 2, 1), (4, SCALE / 4, 2)]
    logged = curve(folder / "skipping")
    assert [key[1] for key in logged] == list(range(1, 10))
    assert [values["learning_rate"] for values in logged.values()] == rates
    assert [logged[1, step]["loss_scale"] for step in (2, 3, 4, 9)] == [SCALE, SCALE / 2, SCALE / 4, SCALE / 4]
    whole = summary(folder / "skipping")
    assert (whole["skipped_steps"], whole["nonfinite_losses"]) == (2, 2)
    assert all(math.isfinite(loss) for loss in losses(folder / "skipping"))


def test_data_of_skipped_steps_is_used_up_and_a_resume_keeps_the_scale(folder, monkeypatch):
    with monkeypatch.context() as context:
        spoil(context, lambda call: call in (3, 4))
        main(fp16(folder, "stopped", steps_this_run=2, num_steps_per_checkpoint=1))
    state = torch.load(folder / "stopped" / "ckpt_2.pt", weights_only=True)
    assert state["data_position"]["samples_seen"] == 3 * 8
    assert state["schedule"]["finished_steps"] == 2
    assert {group["step"] for group in state["optimizer"]["param_groups"]} == {2}
    assert state["training_step"]["loss_scale"]["scale"] == SCALE / 2
    main(fp16(folder, "stopped", resume_from_checkpoint=True))
    with monkeypatch.context() as context:
        spoil(context, lambda call: call in (3, 4))
        main(fp16(folder, "straight"))
    assert curve(folder / "stopped") == curve(folder / "straight")


def test_too_many_skips_in_a_row_end_the_run_with_the_batch_named(folder, monkeypatch):
    spoil(monkeypatch, lambda call: call > 4)
    with pytest.raises(UserError) as raised:
        main(fp16(folder, "hopeless", max_skipped_steps=3, num_steps_per_checkpoint=1))
    sentence = str(raised.value)
    assert "not finite 3 times in a row before step 3, down to a loss scale of 128" in sentence
    # Micro-batch 5 begins with sample 16; two of each of three attempts are bad.
    assert (
        "the loss of 6 micro-batches was no number, first on rank 0, among the 8 sequences from 16 of epoch 0"
        in sentence
    )
    assert [step for step, _ in find_checkpoints(folder / "hopeless")] == [1, 2]


def test_skips_with_good_steps_between_them_do_not_end_the_run(folder, monkeypatch):
    spoil(monkeypatch, lambda call: call % 4 == 0)
    main(fp16(folder, "alternating", max_skipped_steps=2))
    assert len(skips(folder / "alternating")) >= 7


def test_the_scale_stops_at_its_floor(folder, monkeypatch):
    spoil(monkeypatch, lambda call: call <= 10)
    main(fp16(folder, "floor", min_loss_scale=SCALE / 4))
    assert [scale for _, scale, _ in skips(folder / "floor")] == [SCALE / 2] + [SCALE / 4] * 4


def test_a_static_scale_stays(folder, monkeypatch):
    spoil(monkeypatch, lambda call: call == 1)
    main(fp16(folder, "static", loss_scale=64, init_loss_scale=None))
    assert skips(folder / "static") == [(1, 64.0, 1)]
    assert {values["loss_scale"] for values in curve(folder / "static").values()} == {64.0}


def test_the_default_scale_finds_its_way_down(folder):
    main(fp16(folder, "default", init_loss_scale=None, learning_rate=0.05))
    found = skips(folder / "default")
    assert found[0] == (1, 2.0**19, 1)  # 2^20 overflows fp16 at once
    assert summary(folder / "default")["final_loss"] < 4.6


def test_a_phase_without_fp16_takes_over_from_one_with_it(folder, tmp_path):
    main(fp16(folder, tmp_path / "out", steps_this_run=3))
    main(fp16(folder, tmp_path / "out", precision="fp32", resume_from_checkpoint=True, steps_this_run=2))
    main(fp16(folder, tmp_path / "out", resume_from_checkpoint=True))
    assert len(losses(tmp_path / "out")) == 8


def test_a_signal_after_a_skipped_step_saves_the_last_one_taken(folder, monkeypatch):
    """What is logged then is the last step's gradient and rate, not the skipped one's or the next one's."""
    main(fp16(folder, "undisturbed", log_freq=1))
    calls = 0

    def is_bad(call):
        nonlocal calls
        calls = call
        if call == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return call in (7, 8)

    spoil(monkeypatch, is_bad)
    with pytest.raises(SystemExit) as raised:
        main(fp16(folder, "stopped early", log_freq=10))
    assert raised.value.code == 75
    assert [step for step, _ in find_checkpoints(folder / "stopped early")] == [3]
    last = curve(folder / "stopped early")[1, 3]
    expected = curve(folder / "undisturbed")[1, 3]
    assert {name: last[name] for name in ("learning_rate", "gradient_norm")} == {
        name: expected[name] for name in ("learning_rate", "gradient_norm")
    }
