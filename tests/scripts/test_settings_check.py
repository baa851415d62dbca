"""NVIDIA's arguments by place and by name, translated; and variables with a slip, as scripts/*.sh tell them."""

import os
import shlex

import pytest
from paths import ROOT
from script_runs import run

from scripts.settings_check import PLACES, mistakes, settings_of

SETTINGS = [*settings_of(ROOT / "scripts" / "run_pretraining.sh"), *settings_of(ROOT / "scripts" / "launch.sh")]
SQUAD_SETTINGS = [*settings_of(ROOT / "scripts" / "run_squad.sh"), "NUM_GPUS"]


def translated(words, script="scripts/run_pretraining.sh", settings=SETTINGS, **variables):
    """The variables and the rest of the command in the one sentence there is."""
    (sentence,) = mistakes(script, settings, words.split(), variables)
    command = sentence.rpartition("; give ")[2]
    if any(name.islower() for name in variables):  # or the same sentence would come again
        unset, _, command = command.partition("; ")
        assert unset == f"unset {' '.join(name for name in variables if name.islower())}"
    own = shlex.split(command)
    place = own.index("bash")
    assert own[place + 1] == script
    return dict(word.split("=", 1) for word in own[:place]), own[place + 2 :]


def test_the_published_command_line_of_a_dgx_a100_is_its_recipe_here():
    # scripts/configs/pretrain_config.sh of NVIDIA's: batches are of one GPU, accumulation divides them.
    words = "8192 6e-3 fp16 8 0.2843 7038 200 false true true 128 42 bert_lamb_pretraining true true"
    words += " 4096 4e-3 0.128 1563 256 /data/1 /data/2 /workspace/bert None --max_grad_norm 2"
    own, rest = translated(words)
    assert rest == ["--max_grad_norm", "2"]
    assert own == {
        "PHASE1_GLOBAL_BATCH": "65536",
        "PHASE1_MICRO_BATCH": "64",
        "PHASE1_LEARNING_RATE": "6e-3",
        "PHASE1_WARMUP": "0.2843",
        "PHASE1_STEPS": "7038",
        "PHASE1_DATA_DIR": "/data/1",
        "PHASE2_GLOBAL_BATCH": "32768",
        "PHASE2_MICRO_BATCH": "16",
        "PHASE2_LEARNING_RATE": "4e-3",
        "PHASE2_WARMUP": "0.128",
        "PHASE2_STEPS": "1563",
        "PHASE2_DATA_DIR": "/data/2",
        "PRECISION": "fp16",
        "NUM_GPUS": "8",
        "STEPS_PER_CHECKPOINT": "200",
        "SEED": "42",
        "REDUCE_DTYPE": "fp16",
    }
    assert own.keys() <= set(SETTINGS)


@pytest.mark.parametrize(("warmup", "expected"), [("", {}), ("0.1 ", {"WARMUP": "0.1"})])
def test_both_of_nvidias_orders_for_squad(warmup, expected):
    words = f"bert.pt 2.0 4 3e-5 {warmup}fp16 8 1 /squad /vocab.txt /out eval /large.json -1"
    own, rest = translated(words, "scripts/run_squad.sh", SQUAD_SETTINGS)
    paths = {"SQUAD_DIR": "/squad", "VOCAB_FILE": "/vocab.txt", "OUTPUT_DIR": "/out", "CONFIG_FILE": "/large.json"}
    numbers = {"EPOCHS": "2.0", "GLOBAL_BATCH": "32", "LEARNING_RATE": "3e-5", "NUM_GPUS": "8", "SEED": "1"}
    assert (
        own == {"INIT_CHECKPOINT": "bert.pt", "PRECISION": "fp16", "MODE": "predict eval"} | paths | numbers | expected
    )
    assert rest == []


@pytest.mark.parametrize("max_steps", ["", "-1.0 "])
def test_nvidias_order_for_glue(max_steps):
    words = f"bert.pt /glue/MRPC/ /vocab.txt /large.json /out mrpc 8 16 2 2.4e-5 0.1 3 {max_steps}fp16 2 prediction"
    settings = [*settings_of(ROOT / "scripts" / "run_glue.sh"), "NUM_GPUS"]
    own, rest = translated(words, "scripts/run_glue.sh", settings)
    paths = {"DATA_DIR": "/glue/MRPC/", "VOCAB_FILE": "/vocab.txt", "CONFIG_FILE": "/large.json", "OUTPUT_DIR": "/out"}
    batches = {"NUM_GPUS": "8", "GLOBAL_BATCH": "128", "MICRO_BATCH": "8"}
    recipe = {"LEARNING_RATE": "2.4e-5", "WARMUP": "0.1", "EPOCHS": "3", "PRECISION": "fp16", "SEEDS": "2"}
    named = {"INIT_CHECKPOINT": "bert.pt", "GLUE_TASKS": "mrpc", "MODE": "predict"}
    assert own == named | paths | batches | recipe
    assert own.keys() <= set(settings)
    assert rest == []


def test_names_in_lower_case_count_too_and_places_count_more():
    own, _ = translated("", train_batch_size="64", learning_rate="1e-3", NUM_GPUS="4", gradient_accumulation_steps="2")
    assert own == {"PHASE1_GLOBAL_BATCH": "256", "PHASE1_MICRO_BATCH": "32", "PHASE1_LEARNING_RATE": "1e-3"}
    assert translated("96", train_batch_size="64", NUM_GPUS="2")[0] == {"PHASE1_GLOBAL_BATCH": "192"}
    assert translated("$(id) x;y")[0] == {"PHASE1_GLOBAL_BATCH": "$(id)", "PHASE1_LEARNING_RATE": "x;y"}


def test_the_words_of_the_data_script():
    for word, corpus in (("wiki_only", "wikicorpus_en"), ("wiki_books", "books_wiki_en_corpus")):
        own, _ = translated(word, "data/create_datasets_from_start.sh", ["CORPUS"])
        assert own == {"CORPUS": corpus}


def test_every_translation_is_a_setting_of_its_script():
    for path in ("scripts/run_pretraining.sh", "scripts/run_squad.sh", "data/create_datasets_from_start.sh"):
        names = {pair.split("=")[1] for pair in PLACES[os.path.basename(path)].split()} - {"-", "NUM_GPUS"}
        assert names <= set(settings_of(ROOT / path))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("NUM_GPU", "NUM_GPUS"),
        ("PHASE1_STEP", "PHASE1_STEPS"),
        ("PHASE1_GLOBALBATCH", "PHASE1_GLOBAL_BATCH"),
        ("PHASE2_LEARNINGRATE", "PHASE2_LEARNING_RATE"),
        ("PRECISON", "PRECISION"),
        ("phase1_steps", "PHASE1_STEPS"),
        ("bert_model", "BERT_MODEL"),
    ],
)
def test_a_slip_in_a_variable_is_told(given, meant):
    (sentence,) = mistakes("scripts/run_pretraining.sh", SETTINGS, [], {given: "1", "HOME": "/"})
    assert f"{given} is set, and scripts/run_pretraining.sh does not read it; set {meant}, " in sentence


def test_what_belongs_to_others_is_let_be():
    others = "HOME PATH PYTHONPATH PYTHON_VERSION LANG MASTER_ADDRESS SPEED CONFIGS NODE MODEL BATCH_SIZE DATA_DIR TOP"
    others += " CUDA_HOME NCCL_DEBUG OUTPUT LOG_LEVEL SLURM_NNODES LOCAL_RANK WORLD_SIZE LEARNING_RATE MICRO_BATCH"
    assert (
        list(mistakes("scripts/run_pretraining.sh", SETTINGS, ["--seed", "1"], dict.fromkeys(others.split(), "1")))
        == []
    )
    assert list(mistakes("scripts/run_pretraining.sh", SETTINGS, [], dict.fromkeys(SETTINGS, "1"))) == []


def test_the_script_says_so_and_starts_nothing(tmp_path):
    variables = {"OUTPUT_DIR": tmp_path / "out", "NUM_GPU": 1}
    ended = run("scripts/run_pretraining.sh", "96", "6e-3", "--amp", cwd=tmp_path, NUM_GPUS=2, **variables)
    assert ended.returncode == 2
    first, second = ended.stderr.splitlines()
    assert "PHASE1_GLOBAL_BATCH=192 PHASE1_LEARNING_RATE=6e-3 bash " in first
    assert first.endswith("/scripts/run_pretraining.sh --amp.")
    assert second.startswith("error: NUM_GPU is set, ")
    assert not (tmp_path / "out").exists()
