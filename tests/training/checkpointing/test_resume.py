"""A run that is stopped, killed or changes phase, and goes on, against one that never stopped: the same to the bit.

Dropout is on and two micro-batches are accumulated, so that random numbers and the place in the data both matter.
"""

import os
import signal
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from pretraining_runs import assert_equal_checkpoints, curve, summary
from two_phases import PHASE1_STEPS, PHASE2_STEPS, make_two_phase_inputs, phase1, phase2

from common.checkpoint_files import find_checkpoints
from common.errors import UserError
from run_pretraining import main

LOG_FREQ = 3  # losses are logged as means of so many steps

# Runs the command line and kills its own process: after so many micro-batches, or when a checkpoint is about to get
# its name. SIGKILL leaves no time for anything.
KILLED = """
import itertools, os, signal, sys
import run_pretraining
from training.run import TrainingRun

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

kind, where = sys.argv[1:3]
if kind == "micro-batch":
    losses, calls = TrainingRun.losses, itertools.count(1)
    def losses_then_kill(run, batch):
        values = losses(run, batch)
        if next(calls) == int(where):
            kill()
        return values
    TrainingRun.losses = losses_then_kill
else:
    replace = os.replace
    os.replace = lambda source, target: kill() if str(target).endswith(where) else replace(source, target)
run_pretraining.main(sys.argv[3:])
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_two_phase_inputs(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def straight(folder):
    """The output folder of both phases, never stopped."""
    main(phase1(folder, "straight", log_freq=LOG_FREQ))
    main(phase2(folder, "straight", log_freq=LOG_FREQ))
    return folder / "straight"


def run_killed(kind, where, arguments):
    finished = subprocess.run(
        [sys.executable, "-c", KILLED, kind, str(where), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == -signal.SIGKILL, finished.stderr


def assert_same_run(output, expected_output, n_phases):
    actual, expected = curve(output), curve(expected_output)
    compared = [key for key in expected if key[0] <= n_phases and (key[1] == 1 or key[1] % LOG_FREQ == 0)]
    assert len(compared) >= 5
    for key in compared:
        assert actual[key] == expected[key], key  # exactly: JSON carries every bit of a float
    last = PHASE1_STEPS + (PHASE2_STEPS if n_phases == 2 else 0)
    assert_equal_checkpoints(output / f"ckpt_{last}.pt", expected_output / f"ckpt_{last}.pt")


def test_stopped_runs_go_on_bit_for_bit_over_both_phases(folder, straight):
    """55 samples, 8 a step: most stops lie within a file, the seventh step crosses an epoch."""
    output = "stopped"
    for steps in (5, 2, None):
        main(phase1(folder, output, log_freq=LOG_FREQ, steps_this_run=steps))
    for steps in (1, 4, None):
        main(phase2(folder, output, log_freq=LOG_FREQ, steps_this_run=steps))
    assert_same_run(folder / output, straight, n_phases=2)


def test_killed_runs_go_on_bit_for_bit_over_both_phases(folder, straight):
    output = "killed"
    run_killed("micro-batch", 2 * 7 + 1, phase1(folder, output, log_freq=LOG_FREQ))  # step 8, between micro-batches
    # Step 6's is being written beside training, and may or may not have got its name.
    assert [step for step, _ in find_checkpoints(folder / output)] in ([2, 4], [2, 4, 6])
    main(phase1(folder, output, log_freq=LOG_FREQ))
    run_killed("checkpoint", f"ckpt_{PHASE1_STEPS + 4}.pt", phase2(folder, output, log_freq=LOG_FREQ))
    assert [step for step, _ in find_checkpoints(folder / output)][-1] == PHASE1_STEPS + 2
    main(phase2(folder, output, log_freq=LOG_FREQ))
    assert_same_run(folder / output, straight, n_phases=2)


def test_losses_depend_on_what_is_resumed(folder, straight, monkeypatch):
    """The comparison above is sharp: with other dropout alone after the stop, the losses differ."""
    output = "forgetful"
    main(phase1(folder, output, log_freq=LOG_FREQ, steps_this_run=5))
    monkeypatch.setattr("training.step.seed_generator", lambda device, seed, first_sample: torch.manual_seed(seed))
    main(phase1(folder, output, log_freq=LOG_FREQ))
    with pytest.raises(AssertionError):
        assert_same_run(folder / output, straight, n_phases=1)


def test_an_earlier_step_can_be_gone_on_from(folder, straight):
    output = "earlier"
    main(phase1(folder, output, log_freq=LOG_FREQ, steps_this_run=6))
    with pytest.raises(UserError, match=r"holds ckpt_6.pt after --resume_step 4.*move those away"):
        main(phase1(folder, output, log_freq=LOG_FREQ, resume_step=4))
    (folder / output / "ckpt_6.pt").unlink()
    main(phase1(folder, output, log_freq=LOG_FREQ, resume_step=4))
    assert_same_run(folder / output, straight, n_phases=1)


def test_phase_2_starts_anew_from_phase_1s_weights_and_moments(folder, straight, tmp_path):
    before_path = straight / f"ckpt_{PHASE1_STEPS}.pt"
    before = torch.load(before_path, weights_only=True)
    (tmp_path / before_path.name).write_bytes(before_path.read_bytes())
    main(phase2(folder, tmp_path, steps_this_run=1))
    after = torch.load(tmp_path / f"ckpt_{PHASE1_STEPS + 1}.pt", weights_only=True)
    assert after["schedule"]["finished_steps"] == 1
    assert after["data_position"]["samples_seen"] == 8
    assert {group["step"] for group in after["optimizer"]["param_groups"]} == {1}
    name = "bert.embeddings.position_embeddings.weight"
    change = (after["model"][name] - before["model"][name]).norm() / before["model"][name].norm()
    assert 0 < change < 0.01


def test_phase_2_counts_adamws_steps_anew(folder):
    output, changes = "adamw", {"optimizer": "adamw", "learning_rate": 0.001}
    main(phase1(folder, output, max_steps=2, **changes))
    main(phase2(folder, output, phase1_end_step=2, steps_this_run=1, **changes))
    state = torch.load(folder / output / "ckpt_3.pt", weights_only=True)["optimizer"]
    assert {group["step"] for group in state["param_groups"]} == {1}
    assert not any("step" in values for values in state["state"].values())


def test_a_finished_run_does_nothing_and_says_so(folder, straight, capsys):
    checkpoints = {path: path.stat().st_mtime_ns for _, path in find_checkpoints(straight)}
    logged = curve(straight)
    capsys.readouterr()
    main(phase2(folder, straight.name, log_freq=LOG_FREQ))
    assert f"nothing is left to train: step {PHASE2_STEPS} of {PHASE2_STEPS} is done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for _, path in find_checkpoints(straight)} == checkpoints
    assert curve(straight) == logged
    assert summary(straight)["measured_steps"] == 0


def test_phases_share_a_folder_and_keep_their_own_checkpoints(folder, straight):
    steps = [step for step, _ in find_checkpoints(straight)]
    assert steps == [8, 10, 12, 16, 18, 20]
    with pytest.raises(UserError, match="ends at 6"):
        main(phase1(folder, straight.name, max_steps=6))
