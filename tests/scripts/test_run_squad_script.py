"""scripts/run_squad.sh: its configuration to flags, its errors, a whole run."""

import json

import pytest
from paths import ROOT
from script_runs import python_that_only, run
from squad_runs import command, make_inputs, write_squad

from run_squad import main

SCRIPT = "scripts/run_squad.sh"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data, and weights to start from."""
    folder = make_inputs(tmp_path_factory.mktemp("squad"))
    main(command(folder, max_steps=1, do_eval=False, predict_file=None))
    return folder


def settings(folder, tmp_path, **changes):
    return {
        "TRAIN_FILE": folder / "train.json",
        "PREDICT_FILE": folder / "dev.json",
        "VOCAB_FILE": folder / "vocab.txt",
        "CONFIG_FILE": folder / "config.json",
        "INIT_CHECKPOINT": folder / "out" / "ckpt_1.pt",
        "OUTPUT_DIR": tmp_path / "out",
        "NUM_GPUS": 1,
        "GLOBAL_BATCH": 8,
        "MICRO_BATCH": 4,
        "EPOCHS": 1,
        "MAX_SEQ_LENGTH": 32,
        "DOC_STRIDE": 8,
        **changes,
    }


SMALL = ("--max_query_length", 8, "--no_cuda", "--disable_progress_bar")


@pytest.mark.slow
def test_a_run_on_questions_without_answers(folder, tmp_path):
    write_squad(tmp_path / "train.json", share_without_answer=0.5)
    data = {"TRAIN_FILE": tmp_path / "train.json", "PREDICT_FILE": tmp_path / "train.json", "MODE": "eval train"}
    variables = settings(folder, tmp_path, SQUAD_VERSION="2.0", PROFILER="torch", LOG_FREQ=1, **data)
    ended = run(SCRIPT, *SMALL, cwd=tmp_path, **variables, WORLD_SIZE=1)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == f"Results: {tmp_path / 'out'}"
    assert "global batch 8 = micro-batch 4 x 2 accumulated x 1 process" in ended.stdout
    assert "nothing was profiled" in ended.stdout  # five steps are too few
    assert json.loads((tmp_path / "out" / "predictions.json").read_bytes())
    assert (tmp_path / "out" / "null_odds.json").is_file()


def test_settings_become_flags(tmp_path):
    variables = python_that_only(tmp_path, trains='printf "%s\\n" "$*"')
    variables |= {"MODE": "predict eval", "MAX_STEPS": 9, "COMPILE": 1, "MICRO_BATCH": 4, "PREDICT_FILE": "a b"}
    ended = run(SCRIPT, "--max_answer_length", 40, cwd=tmp_path, **variables)
    assert ended.returncode == 0, ended.stderr
    flags = ended.stdout.splitlines()[1]
    assert flags.startswith(f"{ROOT}/run_squad.py --resume_from_checkpoint ")
    assert f" --output_dir {tmp_path} --init_checkpoint bert-large-uncased " in flags
    for part in ("--do_predict --do_eval --predict_file a b", "--max_steps 9", "--micro_batch_size 4", "--compile"):
        assert f" {part} " in flags
    assert flags.endswith(" --max_answer_length 40")
    for name in ("--do_train", "--version_2_with_negative", "--precision", "--vocab_file"):
        assert name not in flags


def test_all_that_is_wrong_is_said_at_once(folder, tmp_path):
    wrong = {"SQUAD_VERSION": "3", "COMPILE": "yes", "MODE": "train guess", "PROFILER": "gprof", "MICRO_BATCH": 3}
    wrong |= {"TRAIN_FILE": tmp_path / "absent.json", "WARMUP": 2}
    ended = run(SCRIPT, "--learning_rate", 1, cwd=tmp_path, **settings(folder, tmp_path, **wrong))
    assert (ended.returncode, ended.stdout) == (2, "== checking the settings, the model and the data\n")
    lines = ended.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    for said in (
        "SQUAD_VERSION is '3'",
        "COMPILE is 'yes'",
        "MODE holds 'guess'",
        "PROFILER is 'gprof'",
        "GLOBAL_BATCH 8 is not a multiple of 3",
        "absent.json cannot be read (No such file",
        "error: WARMUP is 2",
        "--learning_rate is set by LEARNING_RATE of ",
    ):
        assert any(said in line for line in lines), (said, lines)
    assert not (tmp_path / "out").exists()


def test_nsight_systems_is_started_around_the_run(tmp_path):
    variables = python_that_only(tmp_path)
    nsys = tmp_path / "bin" / "nsys"
    nsys.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    nsys.chmod(0o755)
    ended = run(SCRIPT, cwd=tmp_path, **variables, PROFILER="nsys")
    assert ended.returncode == 0, ended.stderr
    told = ended.stdout.splitlines()
    told = told[told.index("profile") : told.index("--profile") + 1]
    assert told[told.index("--capture-range") + 1] == "cudaProfilerApi"
    assert f"{ROOT}/run_squad.py" in told
