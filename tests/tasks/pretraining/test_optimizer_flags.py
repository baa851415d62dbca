"""The optimizer's and the schedule's flags, from the command line to the rates, the log and the checkpoint."""

import pytest
import torch
from pretraining_runs import command, curve, losses, make_inputs

from run_pretraining import main
from training.metrics.logger import read_log


@pytest.fixture
def folder(tmp_path):
    return make_inputs(tmp_path)


def given_values(folder):
    return [e["data"]["arguments"] for e in read_log(folder / "dllogger.json") if e.get("step") == "PARAMETER"][-1]


def test_betas_and_epsilon_reach_the_optimizer_the_log_and_the_checkpoint(folder):
    changed = {"opt_lamb_beta_1": 0.6, "beta2": 0.85, "epsilon": 1e-3}
    main(command(folder, max_steps=3, num_steps_per_checkpoint=2, **changed))
    values = {"beta1": 0.6, "beta2": 0.85, "epsilon": 1e-3}
    assert given_values(folder / "out").items() >= values.items()
    saved = torch.load(folder / "out" / "ckpt_3.pt", weights_only=True)
    assert saved["configuration"]["arguments"].items() >= values.items()
    assert {(*group["betas"], group["eps"]) for group in saved["optimizer"]["param_groups"]} == {(0.6, 0.85, 1e-3)}
    main(command(folder, max_steps=3, output_dir=folder / "defaults", skip_checkpoint=True))
    assert losses(folder / "out") != losses(folder / "defaults")


def test_what_a_resumed_run_is_told_counts(folder):
    main(command(folder, max_steps=4, steps_this_run=2))
    main(command(folder, max_steps=4, beta2=0.9, resume_from_checkpoint=True))
    saved = torch.load(folder / "out" / "ckpt_4.pt", weights_only=True)
    assert {group["betas"] for group in saved["optimizer"]["param_groups"]} == {(0.9, 0.9)}


def test_mlperfs_schedule_on_a_run(folder):
    schedule = {"schedule": "mlperf", "warmup_proportion": None, "warmup_steps": 4, "start_warmup_step": -2}
    main(command(folder, **schedule, learning_rate=0.008, max_steps=8, steps_this_run=5, skip_checkpoint=True))
    rates = [values["learning_rate"] for values in curve(folder / "out").values()]
    # 2/4 and 3/4 of the rate; then 1 - 2/8 of it, and an eighth less with each step.
    assert rates == pytest.approx([0.004, 0.006, 0.006, 0.005, 0.004])
    assert given_values(folder / "out")["warmup_proportion"] is None


def test_what_nobody_gave_is_in_the_log(folder, capsys):
    main(command(folder, warmup_proportion=None, max_steps=2, skip_checkpoint=True))
    assert given_values(folder / "out")["warmup_proportion"] == 0.01
    main(command(folder, warmup_proportion=None, schedule="mlperf", max_steps=2, skip_checkpoint=True))
    values = given_values(folder / "out")
    assert (values["warmup_steps"], values["start_warmup_step"]) == (0, 0)
    assert "warm-up 0 of 2 steps" in capsys.readouterr().out
