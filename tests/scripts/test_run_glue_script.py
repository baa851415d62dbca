"""scripts/run_glue.sh: its configuration to flags, its errors, a whole run of two tasks."""

import pytest
from glue_runs import command, make_inputs, write_glue
from paths import ROOT
from script_runs import python_that_only, run

from run_glue import main

SCRIPT = "scripts/run_glue.sh"


def test_settings_become_flags_of_each_run(tmp_path):
    variables = python_that_only(tmp_path, trains='printf "%s\\n" "$*"')
    variables |= {"GLUE_TASKS": "mnli ax", "SEEDS": "1 2", "MODE": "train predict", "MAX_STEPS": 9, "DATA_DIR": "a b"}
    ended = run(SCRIPT, "--weight_decay", 0.1, cwd=tmp_path, **variables)
    assert ended.returncode == 0, ended.stderr
    runs = [line for line in ended.stdout.splitlines() if line.startswith(f"{ROOT}/run_glue.py ")]
    told = [(task, seed) for task in ("mnli", "ax") for seed in (1, 2)]
    assert len(runs) == len(told)
    for flags, (task, seed) in zip(runs, told, strict=True):
        assert f" --task_name {task} --seed {seed} --output_dir {tmp_path}/mnli/seed_{seed} " in flags
        assert (" --do_train " in flags) == (task == "mnli")
        assert " --do_eval " not in flags
        for part in ("--do_predict", "--resume_from_checkpoint", "--data_dir a b", "--max_steps 9"):
            assert f" {part} " in flags
        assert flags.endswith(" --weight_decay 0.1")
    assert "summarize_glue" not in ended.stdout  # nothing was scored


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    folder = make_inputs(tmp_path, "rte")
    wrong = {"GLUE_TASKS": "rte race", "SEEDS": "1 x", "MODE": "train guess", "COMPILE": "yes", "GLOBAL_BATCH": "many"}
    wrong |= {"NUM_GPUS": 1, "DATA_DIR": folder / "glue", "OUTPUT_DIR": tmp_path / "out"}
    ended = run(SCRIPT, "--seed", 1, cwd=tmp_path, **wrong)
    assert ended.returncode == 2
    said_of = (
        "SEEDS holds 'x'",
        "MODE holds 'guess'",
        "COMPILE is 'yes'",
        "GLOBAL_BATCH is 'many'",
        "--seed is set by",
    )
    for said in said_of:
        assert f"error: {said}" in ended.stderr
    right = {"SEEDS": "1", "MODE": "train", "COMPILE": 0, "GLOBAL_BATCH": 8, "VOCAB_FILE": folder / "vocab.txt"}
    weights = {"INIT_CHECKPOINT": tmp_path / "absent.pt"}
    ended = run(SCRIPT, cwd=tmp_path, **{**wrong, **right, **weights, "GLUE_TASKS": "cola race"})
    assert ended.returncode == 2
    for said in ("absent.pt", "glue/train.tsv cannot be read", "invalid choice: 'race'"):
        assert said in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_tasks(tmp_path):
    folder = make_inputs(tmp_path, "rte")
    write_glue(folder / "glue", "sts-b")
    variables = {"GLUE_TASKS": "rte sts-b", "SEEDS": "2", "MODE": "train eval predict", "DATA_DIR": folder / "glue"}
    variables |= {"INIT_CHECKPOINT": folder / "start" / "ckpt_1.pt", "VOCAB_FILE": folder / "vocab.txt", "NUM_GPUS": 1}
    variables |= {"OUTPUT_DIR": tmp_path / "results", "GLOBAL_BATCH": 8, "MAX_STEPS": 2, "MAX_SEQ_LENGTH": 16}
    main(command(folder, output_dir=folder / "start", max_steps=1, do_eval=False))
    ended = run(SCRIPT, "--no_cuda", "--disable_progress_bar", cwd=tmp_path, **variables)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[-1] == f"Results: {tmp_path / 'results'}"
    rows = [line.split()[1:4:2] for line in lines if line.startswith(("| RTE", "| STS-B"))]
    assert rows == [["STS-B", "1"], ["RTE", "1"]]
    assert (tmp_path / "results" / "sts-b" / "seed_2" / "STS-B.tsv").is_file()
