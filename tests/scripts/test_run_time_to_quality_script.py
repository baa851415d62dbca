"""scripts/run_time_to_quality.sh: its configuration to flags, its errors, what it keeps, a whole run of the sample."""

import json
import re

import pytest
from corpora import write_vocab
from paths import ROOT
from script_runs import python_that_only, run

from benchmark.huggingface_pretraining import HuggingFacePretraining
from tasks.pretraining.task import PretrainingTask
from tasks.setup import parse_arguments

SCRIPT = "scripts/run_time_to_quality.sh"
# A line for each command; files and flags of these tests have no blanks.
NOTES = 'printf "%s\\n" "$*" >>calls'
TRAINS = re.compile(rf"{ROOT}/(run_pretraining.py|benchmark/huggingface_pretraining.py) ")


def stubbed(folder, trains=NOTES, **changes):
    """Variables with a python3 that notes what it is started with, and text and vocabulary for the script."""
    (folder / "texts").mkdir()
    write_vocab(folder / "vocab.txt")
    variables = python_that_only(folder, trains=trains)
    del variables["PHASE1_STEPS"]
    given = {"TEXT_SOURCE": folder / "texts", "VOCAB_FILE": folder / "vocab.txt", "OUTPUT_DIR": folder / "out"}
    return {**variables, **given, "SEEDS": "1 2", "VARIANTS": "bf16 huggingface", "COMPILE": 0, **changes}


def calls(folder):
    """What the stub was started with, in order; what was noted before is forgotten."""
    noted = (folder / "calls").read_text(encoding="utf-8").splitlines()
    (folder / "calls").unlink()
    return noted


def trained(noted):
    """Variant and seed of each run that was started."""
    return [re.search(r"/out/(\w+)/seed_(\d+)", line).groups() for line in noted if TRAINS.match(line)]


def test_settings_become_flags_of_each_run(tmp_path):
    variables = stubbed(tmp_path, VARIANTS="fp8 huggingface", STEPS=9, HUGGINGFACE_MICRO_BATCH=8, TARGETS="0.2 0.3")
    ended = run(SCRIPT, "--weight_decay", 0.1, cwd=tmp_path, **variables)
    assert ended.returncode == 0, ended.stderr
    told = calls(tmp_path)
    *prepared, table = [line for line in told if not TRAINS.match(line)]
    assert [line.split()[0].removeprefix(f"{ROOT}/") for line in prepared] == ["data/create_datasets.py"] * 2
    assert " --print_output_dir" in prepared[0]
    assert " --print_output_dir" not in prepared[1]
    logs = [f"{tmp_path}/out/{name}/seed_{seed}/dllogger.json" for seed in (1, 2) for name in ("fp8", "huggingface")]
    script = f"{ROOT}/benchmark/summarize_time_to_quality.py"
    assert table == f"{script} {' '.join(logs)} --targets 0.2 0.3 0.43"
    runs = [line for line in told if TRAINS.match(line)]
    assert all(line.endswith(" --weight_decay 0.1") and " --max_steps 9 " in line for line in runs)
    shape = json.loads((tmp_path / "out" / "bert_config.json").read_text(encoding="utf-8"))
    n_tokens = len((tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines())
    assert (shape["hidden_size"], shape["vocab_size"]) == (768, n_tokens)


def test_both_models_are_told_the_same_but_for_how_they_compute(tmp_path):
    ended = run(SCRIPT, cwd=tmp_path, **stubbed(tmp_path, HUGGINGFACE_MICRO_BATCH=8))
    assert ended.returncode == 0, ended.stderr
    runs = [line.split()[1:] for line in calls(tmp_path) if TRAINS.match(line)]
    ours, theirs = parse_arguments(PretrainingTask, runs[0]), parse_arguments(HuggingFacePretraining, runs[1])
    differing = {name for name, value in ours.record.items() if value != theirs.record[name]}
    assert differing == {"output_dir", "precision", "micro_batch_size", "kernels", "cuda_graphs"}
    assert (ours.runtime.precision, theirs.runtime.precision, theirs.optimization.micro_batch_size) == ("bf16", None, 8)
    told = {
        "optimizer": "adamw",
        "schedule": "linear",
        "learning_rate": 5e-4,
        "warmup_proportion": 0.15,
        "max_steps": 4400,
    }
    told |= {"global_batch_size": 512, "max_seq_length": 128, "max_predictions_per_seq": 20, "seed": 1}
    told |= {"target_mlm_accuracy": 0.43, "evaluate_first": True, "num_steps_per_evaluation": 100}
    told |= {"skip_checkpoint": True, "resume_from_checkpoint": True, "config_file": f"{tmp_path}/out/bert_config.json"}
    assert {name: ours.record[name] for name in told} == told


def test_weight_gradients_in_fp8_are_a_variant_of_fp8(tmp_path):
    ended = run(SCRIPT, cwd=tmp_path, **stubbed(tmp_path, VARIANTS="fp8 fp8_weights", SEEDS="1"))
    assert ended.returncode == 0, ended.stderr
    runs = [line.split()[1:] for line in calls(tmp_path) if TRAINS.match(line)]
    records = [parse_arguments(PretrainingTask, arguments).record for arguments in runs]
    differing = {name for name, value in records[0].items() if value != records[1][name]}
    assert differing == {"output_dir", "fp8_weight_gradients"}
    assert [record["fp8_weight_gradients"] for record in records] == [False, True]


def test_on_a_gpu_all_are_compiled_and_hugging_faces_micro_batch_is_bounded(tmp_path):
    ended = run(SCRIPT, cwd=tmp_path, **stubbed(tmp_path, COMPILE="", CUDA_VISIBLE_DEVICES="3", GLOBAL_BATCH=384))
    assert ended.returncode == 0, ended.stderr
    ours, theirs = [line for line in calls(tmp_path) if TRAINS.match(line) and " --seed 1 " in line]
    assert " --compile " in ours
    assert " --compile " in theirs
    assert "--micro_batch_size" not in ours
    assert " --micro_batch_size 192 " in theirs  # of the divisors of 384, the largest up to 256


def test_started_again_it_keeps_what_is_finished(tmp_path):
    # The first run of seed 2 is stopped by a signal, that of seed 1 by Hugging Face's model ends below its target.
    stops = '[[ "$*" != *bf16/seed_2* || -e again ]] || exit 75; [[ "$*" != *huggingface/seed_1*--seed* ]] || exit 3'
    variables = stubbed(tmp_path, f"{NOTES}; {stops}")
    ended = run(SCRIPT, cwd=tmp_path, **variables)
    assert ended.returncode == 75
    assert trained(calls(tmp_path)) == [("bf16", "1"), ("huggingface", "1"), ("bf16", "2")]
    (tmp_path / "again").touch()
    ended = run(SCRIPT, cwd=tmp_path, **variables)
    assert ended.returncode == 0, ended.stderr
    noted = calls(tmp_path)
    assert trained(noted) == [("bf16", "2"), ("huggingface", "2")]
    assert all(f"{variant}/seed_{seed}" in noted[-1] for variant in ("bf16", "huggingface") for seed in (1, 2))


def test_runs_with_other_settings_are_not_mixed(tmp_path):
    variables = stubbed(tmp_path, SEEDS="1", VARIANTS="bf16")
    assert run(SCRIPT, cwd=tmp_path, **variables).returncode == 0
    calls(tmp_path)
    ended = run(SCRIPT, cwd=tmp_path, **variables, LEARNING_RATE="1e-3")
    folder = tmp_path / "out" / "bf16" / "seed_1"
    said = f"error: {folder} is a run with other settings; choose another OUTPUT_DIR, or remove it: rm -r '{folder}'\n"
    assert (ended.returncode, ended.stderr) == (2, said)
    assert trained(calls(tmp_path)) == []


def test_checkpoints_are_written_where_they_are_asked_for(tmp_path):
    variables = stubbed(tmp_path, SEEDS="1", VARIANTS="bf16", CHECKPOINTS=1, STEPS_PER_EVALUATION=40)
    assert run(SCRIPT, cwd=tmp_path, **variables).returncode == 0
    [told] = [line for line in calls(tmp_path) if TRAINS.match(line)]
    assert " --num_steps_per_checkpoint 40 --keep_checkpoints 1 " in told
    assert "--skip_checkpoint" not in told


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    wrong = {"TEXT_SOURCE": tmp_path / "nowhere", "VARIANTS": "fp8 fp8 bert", "SEEDS": "1 1 x", "TARGET": "1.2"}
    wrong |= {
        "TARGETS": "0.3 half",
        "BERT_MODEL": "tiny",
        "MICRO_BATCH": 33,
        "WARMUP": 2,
        "OUTPUT_DIR": tmp_path / "out",
    }
    ended = run(SCRIPT, "--seed", 1, cwd=tmp_path, **wrong)
    assert ended.returncode == 2
    for said in (
        "GLOBAL_BATCH 512 is not a multiple of 33",
        "SEEDS holds '1' twice; name each once.",
        "SEEDS holds 'x'; give whole numbers.",
        "VARIANTS holds 'fp8' twice; name each once.",
        "VARIANTS holds 'bert'; its words are bf16, fp8, fp8_weights, fp16, tf32, fp32 and huggingface.",
        "TARGET and TARGETS hold '1.2'; give shares between 0 and 1, such as 0.43 for 43 %.",
        "TARGET and TARGETS hold 'half'; give shares between 0 and 1",
        "--seed is set by",
        f"TEXT_SOURCE {tmp_path}/nowhere has no documents: there is nothing of this name",
        "fp8: WARMUP is 2.0; it must lie in [0, 1).",
        "fp8: VARIANTS fp8 is of the kernels written in Triton alone",
    ):
        assert f"error: {said}" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_text_is_needed_and_a_target_above_all_others(tmp_path):
    targets = {"TARGET": ".30", "TARGETS": "0.3 0.4 0.04"}
    ended = run(SCRIPT, cwd=tmp_path, VARIANTS="bert", OUTPUT_DIR=tmp_path / "out", **targets)
    assert "error: TARGETS holds 0.4, and a run ends at TARGET, .30; raise TARGET, or leave" in ended.stderr
    assert "error: TEXT_SOURCE is empty; set it to folders, files" in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_sample_from_text_to_table(tmp_path):
    short = {"TEXT_SOURCE": ROOT / "data" / "sample" / "books", "TEXT_DOCUMENTS": "line", "VARIANTS": "fp32"}
    short |= {
        "BERT_MODEL": "tiny",
        "VOCAB_SIZE": 600,
        "N_TRAINING_SHARDS": 1,
        "FRACTION_TEST_SET": 0.05,
        "DUPE_FACTOR": 1,
    }
    short |= {"SEEDS": "1", "STEPS": 3, "STEPS_PER_EVALUATION": 2, "GLOBAL_BATCH": 4, "N_PROCESSES": 1, "NUM_GPUS": 1}
    short |= {"TARGET": "0.9", "TARGETS": ".0001", "OUTPUT_DIR": tmp_path / "out"}
    ended = run(SCRIPT, "--no_cuda", "--disable_progress_bar", cwd=tmp_path, **short)
    assert ended.returncode == 0, ended.stderr
    row = next(line for line in ended.stdout.splitlines() if line.startswith("| fp32"))
    assert "not reached" in row
    assert ended.stdout.splitlines()[-1] == f"Results: {tmp_path / 'out'}"
