"""The shell scripts as users start them: from another folder, with a wrong configuration, and for real in small."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT
from ranks import PATIENCE
from script_runs import environment, python_that_only, run, settings_of, shown_settings

from data.loading.prepared import find_prepared
from tasks.pretraining.task import PretrainingTask
from tasks.setup import parse_arguments

STARTED_BY_USERS = (
    "scripts/run_pretraining.sh",
    "scripts/run_squad.sh",
    "scripts/run_glue.sh",
    "scripts/run_time_to_quality.sh",
    "scripts/run_mlperf_bert.sh",
    "scripts/quickstart.sh",
    "data/create_datasets_from_start.sh",
    "data/mlperf_bert.sh",
    "scripts/measure_fast_paths.sh",
    "scripts/measure_scaling.sh",
)
CHECKING = "".join(f"== phase {phase}: checking the settings, the model and the data\n" for phase in (1, 2))


@pytest.mark.parametrize("script", STARTED_BY_USERS)
def test_help_shows_every_setting(script, tmp_path):
    hidden = {"PYTHON", "OMP_WAIT_POLICY"}  # what is not for the user of this script
    assert settings_of(script) - hidden <= shown_settings(script, tmp_path).keys()
    assert not list(tmp_path.iterdir())


def test_the_recipe_is_the_published_one(tmp_path):
    settings = shown_settings("scripts/run_pretraining.sh", tmp_path)
    published = {
        1: {"GLOBAL_BATCH": 65536, "STEPS": 7038, "LEARNING_RATE": 6e-3, "WARMUP": 0.2843},
        2: {"GLOBAL_BATCH": 32768, "STEPS": 1563, "LEARNING_RATE": 4e-3, "WARMUP": 0.128},
    }
    for phase, values in published.items():
        assert {name: float(settings[f"PHASE{phase}_{name}"]) for name in values} == values
    assert (settings["BERT_MODEL"], settings["OPTIMIZER"], settings["SCHEDULE"]) == ("large", "lamb", "poly")
    # What the script leaves to run_pretraining.py.
    defaults = parse_arguments(PretrainingTask, ["--input_dir", "a", "--output_dir", "b"]).optimization
    assert (defaults.weight_decay, defaults.max_grad_norm) == (0.01, 1.0)


def test_the_default_shards_are_where_the_preparation_writes_them(tmp_path):
    settings = shown_settings("scripts/run_pretraining.sh", tmp_path, BERT_PREP_WORKING_DIR=tmp_path)
    for phase, length, predictions in ((1, 128, 20), (2, 512, 80)):
        command = [sys.executable, ROOT / "data" / "bertPrep.py", "--action", "create_hdf5_files", "--print_output_dir"]
        command += ["--dataset", settings["DATASET"], "--max_seq_length", str(length)]
        command += ["--max_predictions_per_seq", str(predictions)]
        environment = {**os.environ, "BERT_PREP_WORKING_DIR": str(tmp_path)}
        printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        Path(printed.strip()).mkdir(parents=True)
        found = find_prepared(Path(settings[f"PHASE{phase}_DATA_DIR"]), length, predictions, settings["DATASET"])
        assert str(found) == printed.strip()


@pytest.mark.slow
def test_pretraining_reports_all_that_is_wrong_at_once(tmp_path):
    (tmp_path / "ckpt_350.pt").touch()
    wrong = {"PHASE1_MICRO_BATCH": 100, "COMPILE": "yes", "PHASE2_WARMUP": 2, "PHASE2_DATA_DIR": tmp_path / "nowhere"}
    wrong |= {"OUTPUT_DIR": tmp_path, "PHASE1_STEPS": 200, "PHASE1_DATA_DIR": "none"}
    ended = run(
        "scripts/run_pretraining.sh", "--max_steps", 5, "--bert_model=base", "--long_cpu_run", cwd=tmp_path, **wrong
    )
    assert (ended.returncode, ended.stdout) == (2, CHECKING)
    lines = ended.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    said = [
        "COMPILE is 'yes'",
        "PHASE1_GLOBAL_BATCH 65536 is not a multiple of 100 (processes: 1, PHASE1_MICRO_BATCH: 100)",
        f"{tmp_path} has a checkpoint of step 350 and no ckpt_200.pt",
        "--max_steps is set by",
        "--bert_model is set by",
        "phase 1: There is no data folder none;",
        "phase 2: PHASE2_WARMUP is 2.0",
        f"phase 2: There is no data folder {tmp_path}/nowhere;",
    ]
    assert [sentence for sentence in said if not any(sentence in line for line in lines)] == []
    assert len(lines) == len(said)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"PHASE1_STEPS": "1e3"}, "PHASE1_STEPS is '1e3'; set it to a whole number"),
        ({"RUN_PHASE1": 0, "RUN_PHASE2": 0}, "RUN_PHASE1 and RUN_PHASE2 are both off"),
        ({"RUN_PHASE1": 0, "PHASE2_STEPS": 0}, "ckpt_7.pt, which phase 2 starts from, is not there"),
    ],
)
def test_pretraining_needs_no_python_to_see_what_is_wrong(variables, sentence, tmp_path):
    ended = run("scripts/run_pretraining.sh", cwd=tmp_path, **python_that_only(tmp_path) | variables)
    assert ended.returncode == 2
    assert sentence in ended.stderr


def test_pretraining_says_how_to_get_pytorch(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("run_pretraining.sh", "configuration.sh", "launch.sh", "profilers.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    python3 = tmp_path / "bin" / "python3"
    python3.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    python3.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    ended = run(tmp_path / "scripts" / "run_pretraining.sh", cwd=tmp_path, PATH=path)
    assert ended.returncode == 2
    assert "No Python environment with the package torch is active" in ended.stderr
    assert f"bash {tmp_path}/scripts/quickstart.sh" in ended.stderr


UNTIL_SENT = "until [[ -e sent ]]; do sleep 0.05; done"


def signalled(folder, send, number, variables):
    """Starts pre-training, and once the file `now` is in folder, sends it, or its whole group, a signal.

    Then makes the file `sent`, so that nothing need be over before the signal has come.
    """
    with subprocess.Popen(
        ["bash", ROOT / "scripts" / "run_pretraining.sh"],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # as a terminal's foreground job, a group of its own
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while not (folder / "now").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        send(process.pid, number)
        (folder / "sent").touch()
        output = process.communicate(timeout=PATIENCE)[0]
        return process.returncode, output


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)]
)
def test_a_signal_before_training_has_begun_is_not_lost(tmp_path, number, status):
    variables = python_that_only(tmp_path, checks=f"touch now; {UNTIL_SENT}", trains="touch trained")
    assert signalled(tmp_path, os.kill, number, variables)[0] == status
    assert not (tmp_path / "trained").exists()


def test_a_signal_at_the_very_end_of_phase_1_does_not_let_phase_2_begin(tmp_path):
    variables = python_that_only(tmp_path, trains=f"trap '' TERM; touch now; {UNTIL_SENT}; touch ckpt_7.pt")
    status, output = signalled(tmp_path, os.kill, signal.SIGTERM, variables)
    assert (status, output) == (75, CHECKING + "== phase 1\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGUSR1, 75), (signal.SIGHUP, 75)])
def test_a_signal_to_all_processes_reaches_training_as_sigterm_alone(tmp_path, number, status):
    """A terminal's Ctrl-C goes to the whole group, where torchrun ends on it without letting its processes save."""
    like_torchrun = tmp_path / "like_torchrun.py"
    like_torchrun.write_text(
        "import pathlib, signal, sys, time\n"
        "def end(number, frame):\n"
        "    pathlib.Path('got').write_text(signal.Signals(number).name)\n"
        "    sys.exit(1)\n"
        "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):\n"
        "    signal.signal(number, end)\n"
        "pathlib.Path('now').touch()\n"
        "time.sleep(30)\n",
        encoding="utf-8",
    )
    variables = python_that_only(tmp_path, trains=f"exec '{sys.executable}' -S '{like_torchrun}'")
    ended, output = signalled(tmp_path, os.killpg, number, variables)
    assert ended == status, output
    assert (tmp_path / "got").read_text(encoding="utf-8") == "SIGTERM"


def test_a_phase_2_that_does_not_fit_the_gpu_is_told_before_phase_1(tmp_path):
    sentence = "not even one sequence fits the memory of this device; try it with --micro_batch_size 1."
    checks = f'[[ "$*" != *--phase2* ]] || {{ echo "run_pretraining.py: error: {sentence}" >&2; exit 2; }}'
    variables = python_that_only(tmp_path, checks=checks, trains="touch trained")
    ended = run("scripts/run_pretraining.sh", cwd=tmp_path, **variables)
    assert (ended.returncode, ended.stderr) == (2, f"error: phase 2: {sentence}\n")
    assert not (tmp_path / "trained").exists()


def test_a_phase_1_that_ends_early_is_no_start_for_phase_2(tmp_path):
    ended = run("scripts/run_pretraining.sh", cwd=tmp_path, **python_that_only(tmp_path))
    assert (ended.returncode, ended.stderr) == (0, "")
    said = f"{CHECKING}== phase 1\nStopped before the end of phase 1; start again to go on: {tmp_path}\n"
    assert ended.stdout == said


def test_started_again_it_resumes_in_phase_2_where_phase_1_is_done(tmp_path):
    for step in (7, 9):
        (tmp_path / f"ckpt_{step}.pt").touch()
    ended = run("scripts/run_pretraining.sh", cwd=tmp_path, **python_that_only(tmp_path, trains='echo "$*"'))
    first, second, flags, last = ended.stdout.removeprefix(CHECKING).splitlines()
    assert (first, second) == (f"== phase 1 is done: {tmp_path}/ckpt_7.pt", "== phase 2")
    assert "--resume_from_checkpoint" in flags
    assert last == f"Results: {tmp_path}"


def test_settings_become_flags(tmp_path):
    variables = python_that_only(tmp_path, trains='printf "%s\\n" "$*" >>flags; touch ckpt_7.pt')
    variables |= {"PHASE1_MICRO_BATCH": 64, "PRECISION": "tf32", "COMPILE": 1, "EVALUATE": 1, "TENSORBOARD": 1}
    variables |= {"BERT_MODEL": "base", "INIT_CHECKPOINT": "w.pt", "PHASE2_DATA_DIR": "a b"}
    variables |= {"WANDB": "mine", "MLFLOW": "ours"}
    ended = run("scripts/run_pretraining.sh", "--max_grad_norm", 2, cwd=tmp_path, **variables)
    assert ended.returncode == 0, ended.stderr
    first, second = (tmp_path / "flags").read_text(encoding="utf-8").splitlines()
    for flags in (first, second):
        assert flags.startswith(f"{ROOT}/run_pretraining.py --do_train --resume_from_checkpoint --input_dir ")
        assert flags.endswith(" --max_grad_norm 2")
        for pair in ("--bert_model base", "--precision tf32", "--compile", f"--tensorboard_dir {tmp_path}/tensorboard"):
            assert f" {pair} " in flags
        assert " --wandb_project mine --mlflow_experiment ours " in flags
        assert "--kernels" not in flags
        assert "--shard_optimizer" not in flags
    assert "--max_seq_length 128 --max_predictions_per_seq 20 --init_checkpoint w.pt" in first
    assert " --global_batch_size 65536 " in first
    assert " --max_steps 7 --learning_rate 6e-3 --warmup_proportion 0.2843 " in first
    assert " --micro_batch_size 64 " in first
    assert "--max_seq_length 512 --max_predictions_per_seq 80 --phase2 --phase1_end_step 7" in second
    assert "--micro_batch_size" not in second
    assert "--init_checkpoint" not in second
    assert "--input_dir a b " in second
    assert " --eval_dir a b " in second


def test_python_may_keep_what_it_compiles(tmp_path):
    command = f"source {ROOT}/scripts/environment.sh; use_environment requirements.txt; env"
    variables = environment(PYTHONDONTWRITEBYTECODE=1)
    printed = subprocess.check_output(["bash", "-c", command], cwd=tmp_path, env=variables, text=True)
    assert "PYTHONDONTWRITEBYTECODE" not in printed
